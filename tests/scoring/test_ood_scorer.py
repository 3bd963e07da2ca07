"""ID score and marker excess follow their formulas, and separate cells of missing types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import roc_auc_score

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.query_model import QueryModel
from spikgpt.errors import DamagedReference
from spikgpt.options import AnnotateOptions
from spikgpt.reference.files import Reference
from spikgpt.scoring import ood_scorer as module
from spikgpt.scoring.ood_scorer import LabelGeometry, OODScorer
from spikgpt.scoring.smoothing import KNNSmoother
from spikgpt.training.train import train
from spikgpt.types import Floats, InputReport, NetworkOutput, Profiles
from tests.conftest import aligned, labelled, steps_at_least


def scores(reference: Reference, cells: AlignedCells, *, neighbours: bool = True) -> QueryModel:
    """Return the model of a query that is its own sample, with the scores of its cells."""
    rows, report = np.arange(len(cells.totals)), InputReport("X", "counts", "auto", 0, 0)
    options = AnnotateOptions(smoothing=neighbours, batch_key=None)
    return QueryModel.fit(torch_engine(reference), reference.familiarity, cells, rows, report=report, options=options)


def correlation(one: Floats, other: Floats, weights: Floats) -> float:
    covariance = np.cov(one, other, aweights=weights)
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def test_scores_are_those_of_a_loop_over_cells(small: Reference, query: AnnData) -> None:
    cells, engine = aligned(small, query), torch_engine(small)
    model, where = scores(small, cells), small.familiarity
    assert where is not None
    output = engine.run(cells, model.scale)
    expression, means_of_labels = engine.embedding.logs(cells), engine.embedding.profiles(cells)
    assert expression is not None
    assert means_of_labels is not None
    logs, profiles = expression.toarray().astype(np.float64), means_of_labels.means
    points = QueryPCA.fit(expression).transform(expression)
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    around = np.argsort(distances, axis=1, kind="stable")[:, :15]  # the cell itself comes first
    means = logs[around].mean(axis=1)
    best = output.probabilities.argmax(axis=1)
    common = [label for label in range(len(profiles)) if (best == label).sum() >= 5]
    assert len(common) >= 3
    study = np.median([np.median(means[best == label], axis=0) - profiles[label] for label in common], axis=0)
    weights = profiles.std(axis=0) ** 4
    precision = where.whitening.astype(np.float64) @ where.whitening.T.astype(np.float64)

    found = model.scores.id_score

    assert found is not None
    for cell in range(0, query.n_obs, 20):
        most = max(correlation(means[cell] - study, profile, weights) for profile in profiles)
        differences = output.vectors[around[cell]].mean(axis=0) - where.centroids
        nearest = min(np.sqrt(difference @ precision @ difference) for difference in differences)
        energy = output.energies[around[cell]].mean()
        assert found[cell] == pytest.approx(0.2 * energy - np.log(nearest) - np.log(1 - min(most, 0.9999)), abs=1e-6)


def test_without_smoothing_a_cell_is_scored_without_its_neighbours(small: Reference, query: AnnData) -> None:
    alone, together = (scores(small, aligned(small, query), neighbours=choice) for choice in (False, True))
    assert not alone.smoothed
    assert together.smoothed
    assert alone.scores.id_score is not None
    assert together.scores.id_score is not None
    # Noise lowers the score of every cell.
    assert alone.scores.id_score.mean() < together.scores.id_score.mean() - 0.3
    few = scores(small, aligned(small, query[:60].copy()))
    assert not few.smoothed
    assert few.scores.id_score is not None


def test_scores_do_not_depend_on_the_chunk(small: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = aligned(small, query)
    whole = scores(small, cells).scores
    monkeypatch.setattr(module, "CHUNK", 7)
    again = scores(small, cells).scores
    for found, expected in ((again.id_score, whole.id_score), (again.averaged_score, whole.averaged_score)):
        assert found is not None
        assert expected is not None
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
def test_cells_of_a_missing_type_have_the_lower_scores(cells: AnnData, query: AnnData) -> None:
    kept = cells[cells.obs["cell_type"] != "ductal"].copy()
    with steps_at_least(60):
        reference = train(kept, "cell_type")
    asked = query[query.obs["cell_type"].isin([*reference.labels.names, "ductal"])].copy()
    annotation = labelled(reference, asked)
    known = (asked.obs["cell_type"] != "ductal").to_numpy()
    assert annotation.typicality is not None
    assert roc_auc_score(known, annotation.typicality) > 0.95
    assert roc_auc_score(known, annotation.typicality) > roc_auc_score(known, annotation.confidence)
    assert annotation.rejected[~known].mean() > 0.7


# All cells of :func:`made_up` are of one batch.
ONE = np.zeros(120, dtype=np.int64)


def made_up(seed: int = 0) -> tuple[LabelGeometry, KNNSmoother, NetworkOutput, sparse.csr_matrix, Profiles]:
    """Give 4 labels of 30 cells each, 20 genes, by a seed."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), 30)
    profiles = random.random((4, 20)) * 3
    logs = sparse.csr_matrix(profiles[labels] + random.normal(0, 0.1, (120, 20)))
    vectors = np.eye(4)[labels] + random.normal(0, 0.1, (120, 4))
    where = LabelGeometry.fit(vectors, labels)
    smoother = KNNSmoother.fit(np.arange(120), logs.toarray(), np.eye(4)[labels])
    sample = NetworkOutput(vectors, np.eye(4)[labels], np.zeros(120))
    return where, smoother, sample, logs, Profiles(profiles, random.uniform(0.1, 0.5, 20))


def test_the_batch_effect_is_subtracted() -> None:
    where, smoother, sample, logs, profiles = made_up()
    shift = np.random.default_rng(1).normal(0, 2, 20)
    moved = sparse.csr_matrix(logs.toarray() + shift)
    here, there = (
        where.scorer(smoother, sample, values, profiles, ONE).score(sample, values, smoother.neighbours, ONE)
        for values in (logs, moved)
    )
    np.testing.assert_allclose(there.id_score, here.id_score, atol=1e-9)
    assert there.marker_excess is not None
    assert here.marker_excess is not None
    np.testing.assert_allclose(there.marker_excess, here.marker_excess, atol=1e-9)


def test_the_effect_of_each_batch_is_subtracted() -> None:
    where, smoother, sample, logs, profiles = made_up()
    batches = np.arange(120) % 2
    random = np.random.default_rng(1)
    # Neighbours are of both batches.
    near = np.stack(
        [random.choice(np.flatnonzero(smoother.probabilities[:, row // 30] == 1), 14) for row in range(120)]
    )
    smoother = replace(smoother, neighbours=near)
    moved = sparse.csr_matrix(logs.toarray() + random.normal(0, 2, (2, 20))[batches])
    here, there = (
        where.scorer(smoother, sample, values, profiles, batches).score(sample, values, near, batches)
        for values in (logs, moved)
    )
    np.testing.assert_allclose(there.id_score, here.id_score, atol=1e-9)
    pooled = where.scorer(smoother, sample, moved, profiles, ONE).score(sample, moved, near, ONE)
    assert np.abs(pooled.id_score - here.id_score).max() > 0.1


def test_a_batch_of_two_labels_has_the_effect_of_the_whole_query() -> None:
    where, smoother, sample, logs, profiles = made_up()
    batches = np.where(np.arange(120) < 60, 0, np.arange(120) % 2)
    effects = where.scorer(smoother, sample, logs, profiles, batches).effects
    whole = where.scorer(smoother, sample, logs, profiles, ONE).effects
    assert effects is not None
    assert whole is not None
    np.testing.assert_array_equal(effects[1], whole[0])
    assert (effects[0] != whole[0]).any()


def test_two_labels_are_too_few_for_a_batch_effect() -> None:
    where, smoother, sample, logs, profiles = made_up()
    some = slice(0, 60)
    two = KNNSmoother.fit(smoother.rows[some], smoother.points[some], smoother.probabilities[some])
    assert where.scorer(two, sample.part(some), logs[some], profiles, ONE[some]).effects is None


def test_the_marker_excess_is_that_of_a_loop_over_genes() -> None:
    where, smoother, sample, logs, profiles = made_up()
    scorer = where.scorer(smoother, sample, logs, profiles, ONE)
    assert scorer.effects is not None
    for near in (smoother.neighbours, smoother.neighbours[:, :0]):
        excess = scorer.score(sample, logs, near, ONE).marker_excess
        assert excess is not None
        for cell in range(0, 120, 7):
            own = [cell, *near[cell]]
            above = []
            for gene in range(20):
                mean = np.mean([logs[row, gene] for row in own]) - scorer.effects[0, gene]
                noise = profiles.within[gene] / np.sqrt(len(own)) + 0.05
                above.append(max(mean - max(profiles.means[:, gene]), 0) / noise)
            assert excess[cell] == pytest.approx(np.log(1 + np.mean(sorted(above)[-10:])))


def test_genes_that_no_label_expresses_raise_the_marker_excess_and_lost_genes_do_not() -> None:
    where, smoother, sample, logs, profiles = made_up()
    values = logs.toarray()
    values[:10, :5] += 5  # a third of the cells of the first label
    values[30:40, :5] -= 5
    changed = sparse.csr_matrix(values)
    excess = (
        OODScorer(where, sample, ONE, changed, profiles)
        .score(sample, changed, smoother.neighbours[:, :0], ONE)
        .marker_excess
    )
    assert excess is not None
    assert excess[:10].min() > excess[10:].max() + 1
    assert excess[30:40].mean() < excess[60:].mean()


def test_few_genes_have_a_marker_excess_too() -> None:
    where, smoother, sample, logs, profiles = made_up()
    few = Profiles(profiles.means[:, :3], profiles.within[:3])
    scorer = where.scorer(smoother, sample, logs[:, :3], few, ONE)
    excess = scorer.score(sample, logs[:, :3], smoother.neighbours, ONE).marker_excess
    assert excess is not None
    assert np.isfinite(excess).all()


def test_an_embedding_without_genes_is_scored_by_distance_and_energy() -> None:
    where, smoother, sample, _, _ = made_up()
    near = smoother.neighbours[:, :0]
    far = NetworkOutput(sample.vectors + 3, sample.probabilities, sample.energies - 1)
    scorer = where.scorer(smoother, sample, None, None, ONE)
    away, here = scorer.score(far, None, near, ONE), scorer.score(sample, None, near, ONE)
    assert (away.id_score < here.id_score - 0.2).all()
    assert away.marker_excess is here.marker_excess is None


def test_tensors_survive_and_others_are_refused() -> None:
    where = made_up()[0]
    again = LabelGeometry.from_tensors(where.tensors(), 4, 4)
    np.testing.assert_array_equal(again.whitening, where.whitening)
    with pytest.raises(DamagedReference, match=r"tensors familiarity\.\* .* expected"):
        LabelGeometry.from_tensors(where.tensors(), 5, 4)
    with pytest.raises(DamagedReference, match="tensors familiarity"):
        LabelGeometry.from_tensors({"centroids": where.centroids}, 4, 4)

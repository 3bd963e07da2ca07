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
    """Return the model of a query with all cells as the sample, and the scores of the cells."""
    rows, report = np.arange(len(cells.totals)), InputReport("X", "counts", "auto", 0, 0)
    options = AnnotateOptions(smoothing=neighbours, batch_key=None)
    return QueryModel.fit(torch_engine(reference), reference.familiarity, cells, rows, report=report, options=options)


def correlation(first: Floats, second: Floats, weights: Floats) -> float:
    covariance = np.cov(first, second, aweights=weights)
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def test_scores_equal_a_loop_over_cells(small: Reference, query: AnnData) -> None:
    cells, engine = aligned(small, query), torch_engine(small)
    model, geometry = scores(small, cells), small.familiarity
    assert geometry is not None
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
    precision = geometry.whitening.astype(np.float64) @ geometry.whitening.T.astype(np.float64)

    id_score = model.scores.id_score

    assert id_score is not None
    for cell in range(0, query.n_obs, 20):
        most = max(correlation(means[cell] - study, profile, weights) for profile in profiles)
        differences = output.vectors[around[cell]].mean(axis=0) - geometry.centroids
        nearest = min(np.sqrt(difference @ precision @ difference) for difference in differences)
        energy = output.energies[around[cell]].mean()
        assert id_score[cell] == pytest.approx(0.2 * energy - np.log(nearest) - np.log(1 - min(most, 0.9999)), abs=1e-6)


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
    for scored, expected in ((again.id_score, whole.id_score), (again.averaged_score, whole.averaged_score)):
        assert scored is not None
        assert expected is not None
        np.testing.assert_allclose(scored, expected, atol=1e-12)


@pytest.mark.slow
def test_cells_of_a_missing_type_have_the_lower_scores(cells: AnnData, query: AnnData) -> None:
    kept = cells[cells.obs["cell_type"] != "ductal"].copy()
    with steps_at_least(60):
        reference = train(kept, "cell_type")
    chosen = query[query.obs["cell_type"].isin([*reference.labels.names, "ductal"])].copy()
    annotation = labelled(reference, chosen)
    known = (chosen.obs["cell_type"] != "ductal").to_numpy()
    assert annotation.typicality is not None
    assert roc_auc_score(known, annotation.typicality) > 0.95
    assert roc_auc_score(known, annotation.typicality) > roc_auc_score(known, annotation.confidence)
    assert annotation.rejected[~known].mean() > 0.7


# Batch of each cell of :func:`made_up`: all cells are in one batch.
ONE = np.zeros(120, dtype=np.int64)


def made_up(seed: int = 0) -> tuple[LabelGeometry, KNNSmoother, NetworkOutput, sparse.csr_matrix, Profiles]:
    """Return made-up data of 4 labels with 30 cells each, and 20 genes."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), 30)
    profiles = random.random((4, 20)) * 3
    logs = sparse.csr_matrix(profiles[labels] + random.normal(0, 0.1, (120, 20)))
    vectors = np.eye(4)[labels] + random.normal(0, 0.1, (120, 4))
    geometry = LabelGeometry.fit(vectors, labels)
    smoother = KNNSmoother.fit(np.arange(120), logs.toarray(), np.eye(4)[labels])
    sample = NetworkOutput(vectors, np.eye(4)[labels], np.zeros(120))
    return geometry, smoother, sample, logs, Profiles(profiles, random.uniform(0.1, 0.5, 20))


def test_the_batch_effect_is_subtracted() -> None:
    geometry, smoother, sample, logs, profiles = made_up()
    shift = np.random.default_rng(1).normal(0, 2, 20)
    moved = sparse.csr_matrix(logs.toarray() + shift)
    original, shifted = (
        geometry.scorer(smoother, sample, values, profiles, ONE).score(sample, values, smoother.neighbours, ONE)
        for values in (logs, moved)
    )
    np.testing.assert_allclose(shifted.id_score, original.id_score, atol=1e-9)
    assert shifted.marker_excess is not None
    assert original.marker_excess is not None
    np.testing.assert_allclose(shifted.marker_excess, original.marker_excess, atol=1e-9)


def test_the_effect_of_each_batch_is_subtracted() -> None:
    geometry, smoother, sample, logs, profiles = made_up()
    batches = np.arange(120) % 2
    random = np.random.default_rng(1)
    # The neighbours of a cell are from both batches.
    near = np.stack(
        [random.choice(np.flatnonzero(smoother.probabilities[:, row // 30] == 1), 14) for row in range(120)]
    )
    smoother = replace(smoother, neighbours=near)
    moved = sparse.csr_matrix(logs.toarray() + random.normal(0, 2, (2, 20))[batches])
    original, shifted = (
        geometry.scorer(smoother, sample, values, profiles, batches).score(sample, values, near, batches)
        for values in (logs, moved)
    )
    np.testing.assert_allclose(shifted.id_score, original.id_score, atol=1e-9)
    pooled = geometry.scorer(smoother, sample, moved, profiles, ONE).score(sample, moved, near, ONE)
    assert np.abs(pooled.id_score - original.id_score).max() > 0.1


def test_a_batch_of_two_labels_has_the_effect_of_the_whole_query() -> None:
    geometry, smoother, sample, logs, profiles = made_up()
    batches = np.where(np.arange(120) < 60, 0, np.arange(120) % 2)
    effects = geometry.scorer(smoother, sample, logs, profiles, batches).effects
    whole = geometry.scorer(smoother, sample, logs, profiles, ONE).effects
    assert effects is not None
    assert whole is not None
    np.testing.assert_array_equal(effects[1], whole[0])
    assert (effects[0] != whole[0]).any()


def test_two_labels_are_too_few_for_a_batch_effect() -> None:
    geometry, smoother, sample, logs, profiles = made_up()
    some = slice(0, 60)
    two = KNNSmoother.fit(smoother.rows[some], smoother.points[some], smoother.probabilities[some])
    assert geometry.scorer(two, sample.part(some), logs[some], profiles, ONE[some]).effects is None


def test_the_marker_excess_equals_a_loop_over_genes() -> None:
    geometry, smoother, sample, logs, profiles = made_up()
    scorer = geometry.scorer(smoother, sample, logs, profiles, ONE)
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
    geometry, smoother, sample, logs, profiles = made_up()
    values = logs.toarray()
    values[:10, :5] += 5  # a third of the cells of the first label
    values[30:40, :5] -= 5
    changed = sparse.csr_matrix(values)
    excess = (
        OODScorer(geometry, sample, ONE, changed, profiles)
        .score(sample, changed, smoother.neighbours[:, :0], ONE)
        .marker_excess
    )
    assert excess is not None
    assert excess[:10].min() > excess[10:].max() + 1
    assert excess[30:40].mean() < excess[60:].mean()


def test_few_genes_have_a_marker_excess_too() -> None:
    geometry, smoother, sample, logs, profiles = made_up()
    few = Profiles(profiles.means[:, :3], profiles.within[:3])
    scorer = geometry.scorer(smoother, sample, logs[:, :3], few, ONE)
    excess = scorer.score(sample, logs[:, :3], smoother.neighbours, ONE).marker_excess
    assert excess is not None
    assert np.isfinite(excess).all()


def test_an_embedding_without_genes_is_scored_by_distance_and_energy() -> None:
    geometry, smoother, sample, _, _ = made_up()
    no_neighbours = smoother.neighbours[:, :0]
    far = NetworkOutput(sample.vectors + 3, sample.probabilities, sample.energies - 1)
    scorer = geometry.scorer(smoother, sample, None, None, ONE)
    far_scores, near_scores = (
        scorer.score(far, None, no_neighbours, ONE),
        scorer.score(sample, None, no_neighbours, ONE),
    )
    assert (far_scores.id_score < near_scores.id_score - 0.2).all()
    assert far_scores.marker_excess is near_scores.marker_excess is None


def test_tensors_survive_a_round_trip_and_other_shapes_are_refused() -> None:
    geometry = made_up()[0]
    again = LabelGeometry.from_tensors(geometry.tensors(), 4, 4)
    np.testing.assert_array_equal(again.whitening, geometry.whitening)
    with pytest.raises(DamagedReference, match=r"tensors familiarity\.\* .* expected"):
        LabelGeometry.from_tensors(geometry.tensors(), 5, 4)
    with pytest.raises(DamagedReference, match="tensors familiarity"):
        LabelGeometry.from_tensors({"centroids": geometry.centroids}, 4, 4)

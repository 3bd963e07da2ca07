"""Familiarity is what its three formulas say, and tells cells of a type that the reference lacks."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import roc_auc_score

from spikgpt.errors import DamagedReference
from spikgpt.labels import familiarity as module
from spikgpt.labels.familiarity import Familiarity, Floats, Traits
from spikgpt.labels.neighbours import Neighbourhood
from spikgpt.pipeline import annotate, read
from spikgpt.training.embedders import Embedding
from spikgpt.training.reference import Reference
from spikgpt.training.train import train


def embedded(reference: Reference, query: AnnData) -> Embedding:
    return reference.embedder.embed(query, classify=reference.probabilities)


def correlation(one: Floats, other: Floats, weights: Floats) -> float:
    covariance = np.cov(one, other, aweights=weights)
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def test_scores_are_those_of_a_loop_over_cells(small: Reference, query: AnnData) -> None:
    embedding = embedded(small, query)
    probabilities, energies = small.classified(embedding.vectors)
    where = small.familiarity
    assert where is not None
    assert embedding.logs is not None
    assert embedding.profiles is not None
    logs, profiles = embedding.logs.toarray().astype(np.float64), embedding.profiles.astype(np.float64)
    distances = ((embedding.points[:, None] - embedding.points[None]) ** 2).sum(axis=2)
    around = np.argsort(distances, axis=1, kind="stable")[:, :15]  # the cell itself comes first
    means = logs[around].mean(axis=1)
    best = probabilities.argmax(axis=1)
    common = [label for label in range(len(profiles)) if (best == label).sum() >= 5]
    assert len(common) >= 3
    study = np.median([np.median(means[best == label], axis=0) - profiles[label] for label in common], axis=0)
    weights = profiles.std(axis=0) ** 4
    precision = where.whitening.astype(np.float64) @ where.whitening.T.astype(np.float64)

    found = read(small, embedding).scores

    assert found is not None
    for cell in range(0, query.n_obs, 20):
        most = max(correlation(means[cell] - study, profile, weights) for profile in profiles)
        differences = embedding.vectors[around[cell]].mean(axis=0) - where.centroids
        nearest = min(np.sqrt(difference @ precision @ difference) for difference in differences)
        energy = energies[around[cell]].mean()
        assert found[cell] == pytest.approx(0.2 * energy - np.log(nearest) - np.log(1 - min(most, 0.9999)), abs=1e-6)


def test_a_cell_judged_alone_does_not_ask_its_neighbours(small: Reference, query: AnnData) -> None:
    embedding = embedded(small, query)
    alone, together = (read(small, embedding, neighbours=choice) for choice in (False, True))
    assert not alone.together
    assert together.together
    assert alone.scores is not None
    assert together.scores is not None
    assert alone.scores.mean() < together.scores.mean() - 0.3  # noise makes every cell look odd
    few = read(small, embedded(small, query[:60].copy()))
    assert not few.together
    assert few.scores is not None


def test_scores_do_not_depend_on_the_chunk(small: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = embedded(small, query)
    whole = read(small, embedding).scores
    monkeypatch.setattr(module, "CHUNK", 7)
    np.testing.assert_allclose(read(small, embedding).scores, whole, atol=1e-12)  # type: ignore[arg-type]


def test_cells_of_a_type_left_out_are_the_less_familiar_ones(cells: AnnData, query: AnnData) -> None:
    kept = cells[cells.obs["cell_type"] != "ductal"].copy()
    reference = train(kept, "cell_type")
    asked = query[query.obs["cell_type"].isin([*reference.labels.names, "ductal"])].copy()
    annotation = annotate(reference, asked)
    known = (asked.obs["cell_type"] != "ductal").to_numpy()
    assert annotation.familiarity is not None
    assert roc_auc_score(known, annotation.familiarity) > 0.95
    assert roc_auc_score(known, annotation.familiarity) > roc_auc_score(known, annotation.confidence)
    assert annotation.rejected[~known].mean() > 0.7


def made_up(seed: int = 0) -> tuple[Familiarity, Neighbourhood, Traits, Floats]:
    """Give 4 labels of 30 cells each, 20 genes, by a seed."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), 30)
    profiles = random.random((4, 20)) * 3
    logs = sparse.csr_matrix(profiles[labels] + random.normal(0, 0.1, (120, 20)))
    vectors = np.eye(4)[labels] + random.normal(0, 0.1, (120, 4))
    where = Familiarity.fit(vectors, labels)
    among = Neighbourhood(np.arange(120), logs.toarray(), np.eye(4)[labels])
    return where, among, Traits(vectors, np.zeros(120), logs), profiles


def test_what_sets_a_study_apart_is_taken_off() -> None:
    where, among, sample, profiles = made_up()
    shift = np.random.default_rng(1).normal(0, 2, 20)
    assert sample.logs is not None
    moved = Traits(sample.vectors, sample.energies, sparse.csr_matrix(sample.logs.toarray() + shift))
    near = among.nearest(among.points, among.cells)
    here, there = (where.judge(among, traits, profiles).score(traits, near) for traits in (sample, moved))
    np.testing.assert_allclose(there, here, atol=1e-9)


def test_two_labels_are_too_few_to_tell_a_study_from_a_type() -> None:
    where, among, sample, profiles = made_up()
    two = Neighbourhood(among.cells[:60], among.points[:60], among.probabilities[:60])
    judge = where.judge(two, sample.part(np.arange(60)), profiles)
    assert not np.any(judge.study)


def test_an_embedding_without_genes_is_judged_by_place_and_energy() -> None:
    where, among, sample, _ = made_up()
    near = among.nearest(among.points, among.cells)
    far = Traits(sample.vectors + 3, sample.energies - 1)
    judge = where.judge(among, Traits(sample.vectors, sample.energies), None)
    alone = near[:, :0]
    assert (judge.score(far, alone) < judge.score(Traits(sample.vectors, sample.energies), alone) - 0.2).all()


def test_tensors_survive_and_others_are_refused() -> None:
    where = made_up()[0]
    again = Familiarity.from_tensors(where.tensors(), 4, 4)
    np.testing.assert_array_equal(again.whitening, where.whitening)
    with pytest.raises(DamagedReference, match=r"familiarity tensors .* expected"):
        Familiarity.from_tensors(where.tensors(), 5, 4)
    with pytest.raises(DamagedReference, match="familiarity tensors"):
        Familiarity.from_tensors({"centroids": where.centroids}, 4, 4)

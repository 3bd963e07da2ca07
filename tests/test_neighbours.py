"""Neighbours are the true ones, and averaging with them helps where the classifier is torn, not elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.spatial import KDTree
from sklearn.decomposition import PCA

from spikgpt import SpikGPT, neighbours
from spikgpt.data import align, find_expression, log_normalise, read_h5ad
from spikgpt.neighbours import MINIMUM_CELLS, nearest, own_components, smooth
from spikgpt.reference import Reference

QUERY_FILE = Path(__file__).parent / "data" / "pancreas_baron_human2_human4.h5ad"


@pytest.fixture(scope="module")
def logs(small: Reference, query: AnnData) -> sparse.csr_matrix:
    """Log expression of the reference's genes in real cells."""
    assert small.embedder.genes is not None
    cells = align(find_expression(query), small.embedder.genes)
    return log_normalise(cells.values, cells.totals)


def test_components_are_those_of_a_principal_component_analysis(logs: sparse.csr_matrix) -> None:
    dense = logs.toarray().astype(np.float64)
    expected = PCA(30, svd_solver="full").fit_transform(dense / (dense.std(axis=0) + neighbours.SPREAD_FLOOR))

    found = own_components(logs)

    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-8)


def test_components_do_not_depend_on_the_chunk(logs: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = own_components(logs)
    monkeypatch.setattr(neighbours, "CHUNK", 7)

    assert np.abs(own_components(logs)) == pytest.approx(np.abs(whole), abs=1e-9)


def test_no_cells_have_no_components() -> None:
    assert own_components(sparse.csr_matrix((0, 5))).shape == (0, 0)


def test_nearest_are_those_of_a_tree(logs: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    points = own_components(logs)
    _, expected = KDTree(points).query(points, 6)
    monkeypatch.setattr(neighbours, "CHUNK", 64)

    assert np.array_equal(nearest(points), expected[:, 1:])


def test_identical_cells_are_not_their_own_neighbours() -> None:
    points = np.zeros((8, 3))

    assert not (nearest(points) == np.arange(8)[:, None]).any()


def test_of_many_cells_some_are_candidates_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(500, 4))
    shuffled = np.random.default_rng(1).permutation(500)
    monkeypatch.setattr(neighbours, "CANDIDATES", 100)

    found = nearest(points)

    assert len(np.unique(found)) <= 100
    assert np.array_equal(shuffled[nearest(points[shuffled])], found[shuffled])


def test_smoothing_is_a_weighted_mean_written_as_a_loop(logs: sparse.csr_matrix) -> None:
    points = own_components(logs)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), len(points))
    around = nearest(points)

    smoothed = smooth(probabilities, points)

    for cell in range(len(points)):
        weights = [probabilities[other].max() for other in around[cell]]
        mean = sum(w * probabilities[other] for w, other in zip(weights, around[cell], strict=True)) / sum(weights)
        assert smoothed[cell] == pytest.approx((probabilities[cell] + mean) / 2, abs=1e-12)
    assert smoothed.sum(axis=1) == pytest.approx(1)


def test_few_cells_stay_as_they_are() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), MINIMUM_CELLS - 1)

    assert np.array_equal(smooth(probabilities, np.zeros((MINIMUM_CELLS - 1, 2))), probabilities)


def test_neighbours_correct_noise_of_the_classifier(shipped: SpikGPT) -> None:
    thin = read_h5ad(QUERY_FILE)
    counts = thin.X.tocsr()
    counts.data = np.random.default_rng(0).binomial(counts.data.astype(int), 0.05).astype(np.float32)
    counts.eliminate_zeros()
    thin.X = counts

    alone = shipped.evaluate(thin, "cell_type", neighbours=False).metrics.accuracy
    together = shipped.evaluate(thin, "cell_type").metrics.accuracy

    assert together > alone

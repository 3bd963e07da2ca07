"""Neighbours are the true ones, and averaging with them helps where the classifier is torn, not elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.spatial import KDTree
from sklearn.decomposition import PCA

from spikgpt import SpikGPT
from spikgpt.cells.align import align, log_normalise
from spikgpt.cells.expression import find_expression
from spikgpt.cells.reading import read_cells
from spikgpt.labels import neighbours
from spikgpt.labels.neighbours import MINIMUM_CELLS, Floats, Neighbourhood, own_space
from spikgpt.training.reference import Reference
from tests.conftest import QUERY_FILE


@pytest.fixture(scope="module")
def logs(small: Reference, query: AnnData) -> sparse.csr_matrix:
    """Log expression of the reference's genes in real cells."""
    assert small.embedder.genes is not None
    cells = align(find_expression(query), small.embedder.genes)
    return log_normalise(cells.values, cells.totals)


def smooth(probabilities: Floats, points: Floats) -> np.ndarray:
    everything = np.arange(len(points))
    among = Neighbourhood(everything, points, probabilities)
    return among.smooth(probabilities, among.nearest(points, everything))


def nearest(points: Floats) -> np.ndarray:
    everything = np.arange(len(points))
    return Neighbourhood(everything, points, np.ones((len(points), 1))).nearest(points, everything)


def test_components_are_those_of_a_principal_component_analysis(logs: sparse.csr_matrix) -> None:
    dense = logs.toarray().astype(np.float64)
    expected = PCA(30, svd_solver="full").fit_transform(dense / (dense.std(axis=0) + neighbours.SPREAD_FLOOR))

    found = own_space(logs).place(logs)

    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-8)


def test_components_do_not_depend_on_the_chunk(logs: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = own_space(logs).place(logs)
    monkeypatch.setattr(neighbours, "CHUNK", 7)

    assert np.abs(own_space(logs).place(logs)) == pytest.approx(np.abs(whole), abs=1e-9)


def test_no_cells_have_no_components() -> None:
    none = sparse.csr_matrix((0, 5))
    assert own_space(none).place(none).shape == (0, 0)


def test_nearest_are_those_of_a_tree(logs: sparse.csr_matrix) -> None:
    points = own_space(logs).place(logs)
    _, expected = KDTree(points).query(points, 15)

    assert np.array_equal(nearest(points), expected[:, 1:])


@pytest.mark.parametrize("size", [100, 127, 128, 129, 640, 641, 5000])
def test_nearest_are_those_of_a_tree_whatever_the_number_of_cells(size: int) -> None:
    points = np.random.default_rng(size).normal(size=(size, 3))
    _, expected = KDTree(points).query(points, 15)

    assert np.array_equal(nearest(points), expected[:, 1:])


def test_identical_cells_are_not_their_own_neighbours() -> None:
    points = np.zeros((128, 3))

    assert not (nearest(points) == np.arange(128)[:, None]).any()


def test_a_cell_outside_the_sample_may_have_every_neighbour() -> None:
    points = np.arange(150.0)[:, None]
    shown = np.delete(np.arange(150), 1)
    among = Neighbourhood(shown, points[shown], np.ones((149, 1)))

    found = among.nearest(points[[1]], np.array([1]))

    assert among.cells[found[0, 0]] in (0, 2)


def test_smoothing_is_a_weighted_mean_written_as_a_loop(logs: sparse.csr_matrix) -> None:
    points = own_space(logs).place(logs)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), len(points))
    around = nearest(points)[:, :5]

    smoothed = smooth(probabilities, points)

    for cell in range(len(points)):
        weights = [probabilities[other].max() for other in around[cell]]
        mean = sum(w * probabilities[other] for w, other in zip(weights, around[cell], strict=True)) / sum(weights)
        assert smoothed[cell] == pytest.approx((probabilities[cell] + mean) / 2, abs=1e-12)
    assert smoothed.sum(axis=1) == pytest.approx(1)


def test_few_cells_stay_as_they_are() -> None:
    size = MINIMUM_CELLS - 1
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size)

    assert np.array_equal(smooth(probabilities, np.zeros((size, 2))), probabilities)


def test_neighbours_correct_noise_of_the_classifier(shipped: SpikGPT) -> None:
    thin = read_cells(QUERY_FILE)
    counts = thin.X.tocsr()
    counts.data = np.random.default_rng(0).binomial(counts.data.astype(int), 0.05).astype(np.float32)
    counts.eliminate_zeros()
    thin.X = counts

    alone = shipped.evaluate(thin, "cell_type", neighbours=False).metrics.accuracy
    together = shipped.evaluate(thin, "cell_type").metrics.accuracy

    assert together > alone

"""Nearest neighbours are exact, and smoothing corrects uncertain cells without changing far cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import KDTree

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.scoring import smoothing as module
from spikgpt.scoring.smoothing import SMOOTHING, KNNSmoother
from spikgpt.types import Floats
from tests.conftest import QUERY_FILE


def smooth(probabilities: Floats, points: Floats) -> np.ndarray:
    smoother = KNNSmoother.fit(np.arange(len(points)), points, probabilities)
    return smoother.smooth(probabilities, points, smoother.neighbours)


def nearest(points: Floats) -> np.ndarray:
    return KNNSmoother.fit(np.arange(len(points)), points, np.ones((len(points), 1))).neighbours


def test_neighbours_equal_those_of_a_tree(logs: sparse.csr_matrix) -> None:
    points = QueryPCA.fit(logs).transform(logs)
    _, expected = KDTree(points).query(points, 15)

    assert np.array_equal(nearest(points), expected[:, 1:])


@pytest.mark.parametrize("size", [100, 127, 128, 129, 640, 641, 5000])
def test_neighbours_equal_those_of_a_tree_for_any_number_of_cells(size: int) -> None:
    points = np.random.default_rng(size).normal(size=(size, 3))
    _, expected = KDTree(points).query(points, 15)

    assert np.array_equal(nearest(points), expected[:, 1:])


def test_identical_cells_are_not_their_own_neighbours() -> None:
    points = np.zeros((128, 3))

    assert not (nearest(points) == np.arange(128)[:, None]).any()


def test_a_cell_outside_the_sample_may_have_every_neighbour() -> None:
    points = np.arange(150.0)[:, None]
    shown = np.delete(np.arange(150), 1)
    smoother = KNNSmoother.fit(shown, points[shown], np.ones((149, 1)))

    neighbours = smoother.nearest(points[[1]], np.array([1]))

    assert smoother.rows[neighbours[0, 0]] in (0, 2)


def smoothed_by_loops(cell: int, probabilities: Floats, points: Floats, around: np.ndarray) -> np.ndarray:
    """Return the smoothed probabilities of a cell by plain loops over its five nearest cells."""
    nearness, weights = [], []
    for other in around[cell, :5]:
        reach = np.median([np.sqrt(((points[other] - points[third]) ** 2).sum()) for third in around[other]])
        away = np.sqrt(((points[cell] - points[other]) ** 2).sum())
        nearness.append(1.0 if away <= reach else float(np.exp(-0.5 * ((away / reach - 1) / 0.5) ** 2)))
        weights.append(max(probabilities[other]) * nearness[-1])
    pairs = zip(weights, around[cell, :5], strict=True)
    mean = sum((weight * probabilities[other] for weight, other in pairs), np.zeros(probabilities.shape[1]))
    mean /= sum(weights)
    share = 0.5 * min(1, sum(nearness) / 5 * max(mean) / max(probabilities[cell]))
    return np.asarray((1 - share) * probabilities[cell] + share * mean)


def test_smoothing_equals_a_loop_over_cells(logs: sparse.csr_matrix) -> None:
    points = QueryPCA.fit(logs).transform(logs)
    probabilities = np.random.default_rng(0).dirichlet(np.full(4, 0.5), len(points))
    _, around = KDTree(points).query(points, 15)

    smoothed = smooth(probabilities, points)

    for cell in range(len(points)):
        assert smoothed[cell] == pytest.approx(smoothed_by_loops(cell, probabilities, points, around[:, 1:]), abs=1e-12)
    assert smoothed.sum(axis=1) == pytest.approx(1)


def test_smoothing_depends_on_neither_chunks_nor_order(
    logs: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = QueryPCA.fit(logs).transform(logs)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), len(points))
    smoother = KNNSmoother.fit(np.arange(len(points)), points, probabilities)
    smoothed = smoother.smooth(probabilities, points, smoother.neighbours)
    order = np.random.default_rng(1).permutation(len(points))
    np.testing.assert_allclose(smooth(probabilities[order], points[order]), smoothed[order], atol=1e-12)
    monkeypatch.setattr(module, "CHUNK", 7)
    again = KNNSmoother.fit(smoother.rows, points, probabilities)
    np.testing.assert_array_equal(again.radius, smoother.radius)
    np.testing.assert_array_equal(again.smooth(probabilities, points, again.neighbours), smoothed)
    part = order[:50]
    few = again.smooth(probabilities[part], points[part], again.nearest(points[part], part))
    np.testing.assert_allclose(few, smoothed[part], atol=1e-12)


def groups(far: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates and probabilities of 200 cells; two cells have another label, at the distance `far`."""
    points = np.random.default_rng(0).normal(size=(200, 3))
    points[:2, 0] += far
    return points, np.where(np.arange(200)[:, None] < 2, [0.2, 0.8], [0.8, 0.2])


def test_neighbours_correct_near_cells_and_not_far_cells() -> None:
    points, probabilities = groups()
    inside = smooth(probabilities, points)[:2]
    points, probabilities = groups(far=60)
    outside = smooth(probabilities, points)[:2]

    assert (inside[:, 1] < 0.7).all()
    # Four of a cell's five nearest cells are far away.
    assert outside == pytest.approx(probabilities[:2], abs=1e-3)


def test_less_certain_neighbours_have_less_weight() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3))
    shares = []
    for sure in (0.9, 0.7, 0.5):
        probabilities = np.tile([sure, 1 - sure], (200, 1))
        probabilities[0] = [0.1, 0.9]
        shares.append(float(0.9 - smooth(probabilities, points)[0, 1]) / (sure - 0.1))

    assert shares == pytest.approx([shares[0] * sure / 0.9 for sure in (0.9, 0.7, 0.5)])
    assert 0.25 < shares[0] <= 0.5


def test_neighbours_of_identical_cells_weigh_half_at_most() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 120)
    points = np.zeros((120, 3))
    around = nearest(points)[:, :5]

    smoothed = smooth(probabilities, points)

    assert np.isfinite(smoothed).all()
    for cell in range(120):
        weights = probabilities[around[cell]].max(axis=1)
        mean = weights @ probabilities[around[cell]] / weights.sum()
        share = 0.5 * min(1, mean.max() / probabilities[cell].max())
        assert smoothed[cell] == pytest.approx((1 - share) * probabilities[cell] + share * mean)


def test_without_smoothing_no_cell_has_neighbours() -> None:
    points, probabilities = groups()
    alone = KNNSmoother.fit(np.arange(200), points, probabilities, smoothed=False)

    assert alone.neighbours.shape == (200, 0)
    assert np.array_equal(alone.smooth(probabilities, points, alone.neighbours), probabilities)


@pytest.mark.parametrize("size", [0, 1, 14, 99])
def test_few_cells_have_no_neighbours(size: int) -> None:
    few = KNNSmoother.fit(np.arange(size), np.zeros((size, 2)), np.ones((size, 3)))

    assert (few.neighbours.shape, few.radius.shape) == ((size, 0), (size,))
    assert few.smooth(np.ones((size, 3)), np.zeros((size, 2)), few.neighbours).shape == (size, 3)


def test_few_cells_stay_as_they_are() -> None:
    size = SMOOTHING.least_cells - 1
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size)

    assert np.array_equal(smooth(probabilities, np.zeros((size, 2))), probabilities)


def test_smoothing_raises_the_accuracy_at_low_counts(shipped: SpikGPT) -> None:
    thin = read_cells(QUERY_FILE)
    counts = thin.X.tocsr()
    counts.data = np.random.default_rng(0).binomial(counts.data.astype(int), 0.05).astype(np.float32)
    counts.eliminate_zeros()
    thin.X = counts

    alone = shipped.evaluate(thin, "cell_type", smoothing=False).metrics.accuracy
    together = shipped.evaluate(thin, "cell_type").metrics.accuracy

    assert together > alone

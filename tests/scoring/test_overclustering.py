"""Overclustering does not depend on cell order or random state, and a cluster has cells of one type."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spikgpt.errors import ConfigError
from spikgpt.scoring.overclustering import most_frequent, over_cluster, resolution
from spikgpt.scoring.smoothing import KNNSmoother

pytest.importorskip("igraph")


def three_groups(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of 240 cells and the group of each."""
    generator = np.random.default_rng(seed)
    groups = np.arange(240) % 3
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    return centres[groups] + generator.normal(size=(240, 2)), groups


def clusters_of(points: np.ndarray) -> np.ndarray:
    smoother = KNNSmoother.fit(np.arange(len(points)), points, np.ones((len(points), 1)))
    return over_cluster(smoother.neighbours, points, len(points))


def test_a_cluster_has_cells_of_one_group() -> None:
    points, groups = three_groups()
    clusters = clusters_of(points)
    assert len(np.unique(clusters)) > 6
    assert all(len(np.unique(groups[clusters == cluster])) == 1 for cluster in np.unique(clusters))
    sizes = np.bincount(clusters)
    assert (np.diff(sizes) <= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_clusters_depend_on_neither_cell_order_nor_random_state(seed: int) -> None:
    points, _ = three_groups(seed)
    order = np.random.default_rng(seed).permutation(len(points))
    expected = clusters_of(points)
    random.seed(seed)
    np.testing.assert_array_equal(clusters_of(points[order]), expected[order])


def test_the_random_state_of_the_user_is_unchanged() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    clusters_of(three_groups()[0])
    assert random.random() == expected


@pytest.mark.parametrize(
    ("cells", "value"), [(100, 5), (4_999, 5), (5_000, 10), (39_999, 15), (99_999, 20), (199_999, 25), (200_000, 30)]
)
def test_the_resolution_is_that_of_celltypist(cells: int, value: int) -> None:
    assert resolution(cells) == value


@given(arrays.arrays(np.int32, (5, 7), elements=st.integers(0, 3)))
def test_the_first_of_the_most_frequent_codes_is_chosen(codes: np.ndarray) -> None:
    for row, code in zip(codes, most_frequent(codes), strict=True):
        counts = np.bincount(row)
        assert counts[code] == counts.max()
        first = next(value for value in row if counts[value] == counts.max())
        assert code == first


def test_without_igraph_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ConfigError, match="This needs igraph.*pip install"):
        clusters_of(three_groups()[0])

"""The compiled search finds the same neighbours as a comparison with all points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spikgpt import kernels
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.kernels.nearest import ClusteredPoints
from spikgpt.scoring.smoothing import KNNSmoother
from spikgpt.types import Floats, Rows


def distances_of(points: Floats, queries: Floats, own: Rows, count: int) -> np.ndarray:
    """Return the distances of the nearest points by a plain loop; equally near points may come in any order."""
    distances = []
    for query, row in zip(queries, own, strict=True):
        lengths = np.sqrt(((points - query) ** 2).sum(axis=1))
        distances.append(np.sort(np.delete(lengths, row) if row >= 0 else lengths)[:count])
    return np.array(distances)


def check(points: Floats, queries: Floats, own: Rows, count: int) -> None:
    neighbours = ClusteredPoints.fit(points).nearest(queries, own, count)

    lengths = np.sqrt(((points[neighbours] - queries[:, None]) ** 2).sum(axis=2))
    scale = np.abs(points).max() + 1e-12
    np.testing.assert_allclose(lengths, distances_of(points, queries, own, count), atol=1e-6 * scale)
    assert not (neighbours == own[:, None]).any()
    assert all(len(set(row)) == count for row in neighbours)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(15, 700),
    dim=st.integers(1, 33),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    kind=st.sampled_from(["normal", "groups", "copies", "constant", "far from zero"]),
)
def test_neighbours_equal_those_of_a_comparison_with_all_points(
    seed: int, size: int, dim: int, scale: float, kind: str
) -> None:
    random = np.random.default_rng(seed)
    points = random.normal(size=(size, dim))
    if kind == "groups":
        points += 50 * random.integers(0, 4, size=(size, 1))
    elif kind == "copies":
        points = points[random.integers(0, max(1, size // 10), size)]
    elif kind == "constant":
        points[:] = 1.0
    elif kind == "far from zero":
        points += 1000
    points *= scale
    queries = np.concatenate([points[:20], points[:10] + scale * random.normal(size=(10, dim))[: min(10, size)]])
    own = np.concatenate([np.arange(20)[: len(points[:20])], np.full(len(queries) - len(points[:20]), -1)])

    check(points, queries, own, 14)


def test_neighbours_equal_those_of_numpy_on_real_cells(
    logs: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = QueryPCA.fit(logs).transform(logs)
    rows, ones = np.arange(len(points)), np.ones((len(points), 1))
    expected = KNNSmoother.fit(rows, points, ones).neighbours

    monkeypatch.setattr(kernels, "LEAST_CELLS", 0)

    assert np.array_equal(KNNSmoother.fit(rows, points, ones).neighbours, expected)


def test_neighbours_do_not_depend_on_the_chunk() -> None:
    random = np.random.default_rng(0)
    points, queries = random.normal(size=(3000, 30)), random.normal(size=(2500, 30))
    clusters, own = ClusteredPoints.fit(points), np.full(2500, -1)

    whole = clusters.nearest(queries, own, 14)

    for start, stop in ((0, 1), (7, 1100), (2499, 2500)):
        assert np.array_equal(clusters.nearest(queries[start:stop], own[start:stop], 14), whole[start:stop])

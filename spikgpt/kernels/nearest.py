"""Exact nearest neighbours of many cells in a sample of them, compiled.

The sample is divided into clusters. A cluster is skipped if the triangle inequality shows that none of its points is
near enough. The lower bound of a cell's distance from these points is its distance from the cluster's centre minus the
radius of the cluster. So the result does not depend on the clusters. Distances are computed in float32 first. The
nearest points and a few more are then compared in float64.

The NumPy form is ``KNNSmoother._nearest`` in :mod:`spikgpt.scoring.smoothing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from spikgpt.kernels.jit import jit
from spikgpt.types import Floats, Rows

# Number of clusters of the sample, and number of rounds of Lloyd's algorithm (k-means).
CLUSTERS, ROUNDS = 128, 4
# Number of points, beyond the number of neighbours, whose distances are computed in float64.
SPARE = 6
# Number of points whose distances are compared at a time.
BLOCK = 32
# Upper bound of the relative error of distances in float32.
SLACK = 1e-5
# Number of cells whose distances from the centres are in memory at a time.
CHUNK = 1024

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClusteredPoints:
    """A sample of k points with D coordinates, divided into C clusters.

    Attributes
    ----------
    points
        Coordinates of the points after subtraction of ``mean``, shape (k, D).
    mean
        The mean of the points, shape (D,).
    centres, radii
        Centre of each cluster, shape (C, D), and largest distance of its points, shape (C,).
    order
        For each cluster, all clusters by increasing distance of their centres from its centre, shape (C, C).
    members, starts
        Positions of the points in the sample, sorted by cluster, shape (k,). Index in ``members`` of the first point of
        each cluster, shape (C + 1,).
    tiles, squares
        Coordinates of the points of each cluster, an array of shape (D, points), flattened one cluster after the other,
        shape (D k,). Squared lengths of the points, shape (k,).
    """

    points: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    centres: npt.NDArray[np.float64]
    radii: npt.NDArray[np.float64]
    order: Rows
    members: Rows
    starts: Rows
    tiles: Float32
    squares: Float32

    @classmethod
    def fit(cls, points: Floats) -> Self:
        """Divide k points, shape (k, D), into clusters by Lloyd's algorithm (k-means); k is at least 1."""
        mean = points.astype(np.float64).mean(axis=0)
        centred = np.ascontiguousarray(points - mean)
        centres = centred[np.linspace(0, len(centred) - 1, min(CLUSTERS, len(centred))).astype(np.int64)]
        for _ in range(ROUNDS):
            own = _distances(centred, centres).argmin(axis=1)
            sizes = np.bincount(own, minlength=len(centres))
            sums = np.zeros_like(centres)
            np.add.at(sums, own, centred)
            filled = sizes > 0
            centres[filled] = sums[filled] / sizes[filled, None]
        own = _distances(centred, centres).argmin(axis=1)
        members = np.argsort(own, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=len(centres)))])
        radii = np.zeros(len(centres))
        np.maximum.at(radii, own, np.linalg.norm(centred - centres[own], axis=1))
        ordered = centred[members].astype(np.float32)  # (k, D)
        tiles = np.concatenate([ordered[start:stop].T.ravel() for start, stop in zip(starts, starts[1:], strict=False)])
        order = np.argsort(_distances(centres, centres), axis=1, kind="stable")
        return cls(centred, mean, centres, radii, order, members, starts, tiles, (ordered**2).sum(axis=1))

    def nearest(self, queries: Floats, own: Rows, count: int) -> Rows:
        """Return the positions of the ``count`` nearest points of each query, nearest first.

        Parameters
        ----------
        queries
            Coordinates of the queries, shape (n, D).
        own
            Position in the sample of the point that is the query itself and so no neighbour, shape (n,); -1 if the
            query is not in the sample.
        count
            Number of neighbours, fewer than the number of points.
        """
        neighbours = np.empty((len(queries), count), dtype=np.int64)
        for start in range(0, len(queries), CHUNK):
            part = slice(start, start + CHUNK)
            centred = np.ascontiguousarray(queries[part] - self.mean, dtype=np.float64)  # (chunk, D)
            distances = _distances(centred, self.centres)  # (chunk, C)
            index = self.points, self.radii, self.order, self.members, self.starts, self.tiles, self.squares
            doubled = (2 * centred).astype(np.float32)  # (chunk, D)
            _nearest(centred, doubled, own[part], distances, index, neighbours[part])
        return neighbours


def _distances(points: Floats, centres: Floats) -> npt.NDArray[np.float64]:
    """Return the distances, shape (n, C), of each point, shape (n, D), from each centre, shape (C, D)."""
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


# The loops below could be shorter with NumPy's functions, but would take several times as long to compile.


@jit(reordered=True)
def _scan(query: Float32, tiles: Float32, first: int, size: int, squares: Float32, result: Float32) -> None:
    """Write |p|**2 - 2 dot(q, p) to ``result`` for the query q and each point p of a cluster.

    Parameters
    ----------
    query
        Twice the coordinates of the query, shape (D,).
    first, size
        Index of the first point of the cluster in ``squares``, and number of points in the cluster.
    """
    for column in range(size):
        result[column] = squares[first + column]
    start = first * len(query)
    for d in range(len(query)):
        value, row = query[d], tiles[start + d * size : start + (d + 1) * size]
        for column in range(size):  # compiled to vector instructions
            result[column] -= value * row[column]


@jit()
def _sort_by_distance(
    query: npt.NDArray[np.float64], points: npt.NDArray[np.float64], positions: Rows, lengths: npt.NDArray[np.float64]
) -> None:
    """Sort positions of points in place by the distance from a query, -1 last; ``lengths`` is scratch memory."""
    for spot in range(len(positions)):
        position, length = positions[spot], np.inf
        if position >= 0:
            length = 0.0
            for d in range(len(query)):
                length += (query[d] - points[position, d]) ** 2
        at = spot
        while at > 0 and lengths[at - 1] > length:
            lengths[at], positions[at] = lengths[at - 1], positions[at - 1]
            at -= 1
        lengths[at], positions[at] = length, position


@jit()
def _nearest(
    queries: npt.NDArray[np.float64],
    doubled: Float32,
    own: Rows,
    distances: npt.NDArray[np.float64],
    index: tuple[Any, ...],
    neighbours: Rows,
) -> None:
    """Write the positions of the nearest points of each query to ``neighbours``, shape (n, count).

    Parameters
    ----------
    queries, doubled
        Coordinates of the queries after subtraction of the mean, and twice these coordinates in float32, (n, D).
    own, distances
        Position of the point that is the query itself, or -1, shape (n,). Distances of the queries from the centres,
        shape (n, C).
    index
        Attributes ``points``, ``radii``, ``order``, ``members``, ``starts``, ``tiles`` and ``squares`` of
        :class:`ClusteredPoints`.
    """
    points, radii, order, members, starts, tiles, squares = index
    rows, dim = queries.shape
    count = neighbours.shape[1]
    wide = min(count + SPARE, len(points))
    values, positions, exact = np.empty(wide, np.float32), np.empty(wide, np.int64), np.empty(wide, np.float64)
    scratch = np.empty(len(points), np.float32)
    for row in range(rows):
        square = 0.0
        for d in range(dim):
            square += queries[row, d] * queries[row, d]
        slack = SLACK * math.sqrt(square)
        for spot in range(wide):
            values[spot], positions[spot] = np.inf, -1
        worst, reach, closest = np.float32(np.inf), np.inf, 0
        for cluster in range(len(radii)):
            if distances[row, cluster] < distances[row, closest]:
                closest = cluster
        for turn in range(len(radii)):
            cluster = order[closest, turn]
            first, size = starts[cluster], starts[cluster + 1] - starts[cluster]
            if size == 0 or distances[row, cluster] - radii[cluster] > reach:
                continue
            _scan(doubled[row], tiles, first, size, squares, scratch)
            for start in range(0, size, BLOCK):
                block = scratch[start : min(start + BLOCK, size)]
                hits = np.int32(0)
                for at in range(len(block)):  # compiled to vector instructions
                    hits += np.int32(block[at] < worst)
                if hits == 0:
                    continue
                for at in range(len(block)):
                    value = block[at]
                    if value < worst and members[first + start + at] != own[row]:
                        spot = wide - 1
                        while spot > 0 and values[spot - 1] > value:
                            values[spot], positions[spot] = values[spot - 1], positions[spot - 1]
                            spot -= 1
                        values[spot], positions[spot] = value, members[first + start + at]
                        worst = values[wide - 1]
            reach = math.sqrt(max(np.float64(worst) + square, 0.0)) * (1 + SLACK) + slack
        _sort_by_distance(queries[row], points, positions, exact)
        for spot in range(count):
            neighbours[row, spot] = positions[spot]

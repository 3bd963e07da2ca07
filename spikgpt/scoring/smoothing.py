"""Cells that look alike should have like labels: each cell's probabilities, averaged with those of its neighbours.

A classifier sees a query through the reference: genes, scaling and components are those that tell the reference's
cells apart. Among themselves, the query's cells share their technology, donor and treatment, so their own neighbours
know what the classifier cannot see: that a cell which looks half ductal and half acinar lies in the middle of ductal
cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from spikgpt.types import Floats, Rows

# Among fewer cells the nearest may be of another type.
ENOUGH_CELLS = 100
NEIGHBOURS = 5
# Neighbours whose expression is averaged with a cell's own, to tell how familiar its kind is: many, against noise.
AROUND = 14
# Share of a cell's probabilities that its neighbours make up at most.
LARGEST_SHARE = 0.5
# How soon a neighbour loses its say beyond its own reach, in multiples of that.
OUTSIDE = 0.5
# Cells smoothed at a time, and cells whose distances to the sample are in memory at a time.
CHUNK, DISTANCES = 1024, 128
# Distances of which the least is looked at first.
BLOCK = 128


@dataclass(frozen=True)
class KNNSmoother:
    """A sample of a query's cells, among which the neighbours of any of its cells are sought.

    ``rows``, shape (k,), are their row numbers in the query, ascending; ``points``, shape (k, D), where they lie, and
    ``probabilities``, shape (k, L), what the classifier says of each alone. ``near`` holds the positions of their own
    neighbours, shape (k, 14), or (k, 0) where none are asked, and ``reaches``, shape (k,), the distance within which
    each has half of them.
    """

    rows: Rows
    points: Floats
    probabilities: Floats
    near: Rows
    reaches: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows, points: Floats, probabilities: Floats, *, smoothed: bool = True) -> KNNSmoother:
        """Find the neighbours of the cells of a sample, unless these are to be seen alone."""
        alone = cls(rows, points, probabilities, np.empty((len(rows), 0), dtype=np.int64), np.zeros(len(rows)))
        if not smoothed or len(rows) < ENOUGH_CELLS:
            return alone
        near, reaches = alone.nearest(points, rows), np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            reaches[part] = np.median(np.linalg.norm(points[part, None] - points[near[part]], axis=2), axis=1)
        return replace(alone, near=near, reaches=reaches)

    def smooth(self, probabilities: Floats, points: Floats, near: Rows) -> npt.NDArray[np.float64]:
        """Average each cell's label probabilities, shape (n, L), with those of its nearest cells.

        Each neighbour has a say by how confident it is, and how near: a cell of a rare type has cells of other types as
        its nearest, but lies outside of where these have theirs. All neighbours together make up at most half of the
        result, and less where they are far, or agree less on a label than the cell itself is sure of one.

        Parameters
        ----------
        points
            Where the cells lie, shape (n, D).
        near
            What :meth:`nearest` returns for these cells. Without neighbours the probabilities stay as they are.
        """
        if not near.shape[1]:
            return np.asarray(probabilities, dtype=np.float64)
        smoothed = np.empty(probabilities.shape)
        for start in range(0, len(near), CHUNK):
            part = slice(start, start + CHUNK)
            few, own = near[part, :NEIGHBOURS], probabilities[part]
            lent = self.probabilities[few]  # (chunk, neighbours, L)
            away = np.linalg.norm(points[part, None] - self.points[few], axis=2)  # (chunk, neighbours)
            outside = np.maximum(away / np.maximum(self.reaches[few], 1e-12) - 1, 0)
            nearness = np.exp(-0.5 * (outside / OUTSIDE) ** 2)  # (chunk, neighbours)
            weights = lent.max(axis=2) * nearness
            total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
            around = np.einsum("nk,nkl->nl", weights, lent) / total  # (chunk, L)
            sure = around.max(axis=1) / np.maximum(own.max(axis=1), 1e-12)  # (chunk,)
            share = LARGEST_SHARE * np.minimum(nearness.mean(axis=1) * sure, 1)[:, None]
            # Of a cell that the network says nothing of, its neighbours say nothing either.
            smoothed[part] = ((1 - share) * own + share * around) * (own.max(axis=1, keepdims=True) > 0)
        return smoothed

    def nearest(self, points: Floats, rows: Rows) -> Rows:
        """Return the positions in the sample of each cell's 14 nearest other cells, nearest first.

        With fewer than 100 cells there are too few neighbours to ask, and none is returned, shape (n, 0).

        Parameters
        ----------
        points
            Where the cells lie, shape (n, D).
        rows
            Row numbers of the cells in the query, shape (n,): no cell is a neighbour of itself.
        """
        if len(self.rows) < ENOUGH_CELLS:
            return np.empty((len(points), 0), dtype=np.int64)
        near = np.empty((len(points), AROUND), dtype=np.int64)
        for start in range(0, len(points), DISTANCES):
            part = slice(start, start + DISTANCES)
            near[part] = self._nearest(points[part], rows[part])
        return near

    def _nearest(self, points: Floats, rows: Rows) -> Rows:
        # Squared, less each point's own squared length, in one product.
        distances = np.concatenate([-2 * points, np.ones((len(points), 1))], axis=1) @ self._others  # (n, blocks BLOCK)
        place = np.searchsorted(self.rows, rows)
        own = np.flatnonzero(self.rows[np.minimum(place, len(self.rows) - 1)] == rows)
        distances[own, place[own]] = np.inf
        # The nearest are in the blocks that hold the smallest distances.
        blocks = distances.reshape(len(points), BLOCK, -1)
        near = _smallest(blocks.min(axis=1), AROUND)  # (n, 14 or fewer)
        some = (near[:, None] + np.arange(BLOCK)[:, None] * blocks.shape[2]).reshape(len(points), -1)
        of_some = np.take_along_axis(distances, some, axis=1)
        best = np.take_along_axis(some, _smallest(of_some, AROUND), axis=1)  # (n, 14)
        order = np.argsort(np.take_along_axis(distances, best, axis=1), axis=1, kind="stable")
        return np.asarray(np.take_along_axis(best, order, axis=1))

    @cached_property
    def _others(self) -> npt.NDArray[np.float64]:
        """Return the points and their squared lengths, shape (D + 1, k), filled up with points at infinity."""
        rows = np.concatenate([self.points, (self.points**2).sum(axis=1, keepdims=True)], axis=1)  # (k, D + 1)
        others = np.zeros((rows.shape[1], -(-len(rows) // BLOCK) * BLOCK))
        others[-1] = np.inf
        others[:, : len(rows)] = rows.T
        return others


def _smallest(values: npt.NDArray[np.float64], count: int) -> Rows:
    """Return where the smallest values of each row are, in no order: (n, k) to (n, count), or (n, k) for fewer."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, count - 1, axis=1)[:, :count]

"""k-nearest-neighbour smoothing: average each cell's label probabilities with those of its neighbours in the query.

The classifier sees a query through the genes, the scaling and the components of the reference. The query's cells share
their technology, donor and treatment. So the neighbours of a cell within the query show what the classifier misses: for
example, that a cell which looks half ductal and half acinar lies among ductal cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.constants import CONSTANTS
from spikgpt.kernels import compiled
from spikgpt.types import Floats, Rows

SMOOTHING = CONSTANTS.smoothing
# Number of cells smoothed at a time, and number of cells whose distances to the sample are in memory at a time.
CHUNK, DISTANCES = 1024, 128
# Number of distances in a block; the smallest distance of each block is compared first.
BLOCK = 128


@dataclass(frozen=True)
class KNNSmoother:
    """A sample of k cells of a query, in which the neighbours of all cells of the query are searched.

    Attributes
    ----------
    rows
        Row numbers of the sample in the query, ascending, shape (k,).
    points
        Coordinates of the sample, shape (k, D).
    probabilities
        Label probabilities of the sample before smoothing, shape (k, L).
    neighbours
        Positions in the sample of the 14 neighbours of each sample cell, nearest first, shape (k, 14); shape (k, 0)
        without smoothing.
    radius
        Median distance of each cell of the sample to its neighbours, shape (k,).
    """

    rows: Rows
    points: Floats
    probabilities: Floats
    neighbours: Rows
    radius: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, rows: Rows, points: Floats, probabilities: Floats, *, smoothed: bool = True) -> KNNSmoother:
        """Return the smoother of a sample; no neighbours are searched without ``smoothed`` or in a small sample."""
        alone = cls(rows, points, probabilities, np.empty((len(rows), 0), dtype=np.int64), np.zeros(len(rows)))
        if not smoothed or len(rows) < SMOOTHING.least_cells:
            return alone
        neighbours, radius = alone.nearest(points, rows), np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            distances = np.linalg.norm(points[part, None] - points[neighbours[part]], axis=2)  # (chunk, 14)
            radius[part] = np.median(distances, axis=1)
        return replace(alone, neighbours=neighbours, radius=radius)

    def smooth(self, probabilities: Floats, points: Floats, neighbours: Rows) -> npt.NDArray[np.float64]:
        """Average each cell's label probabilities, shape (n, L), with those of its nearest neighbours.

        The weight of a neighbour is its confidence times a Gaussian kernel of the distance beyond the neighbour's
        radius. The kernel protects cells of rare types: they lie outside the radius of neighbours of other types. The
        neighbours together have at most half of the weight. They have less weight if their distances are large, or if
        their mean probabilities are less certain than the probabilities of the cell.

        Parameters
        ----------
        points
            Coordinates of the cells, shape (n, D).
        neighbours
            Positions that :meth:`nearest` returns for the cells. Without neighbours the probabilities do not change.
        """
        if not neighbours.shape[1]:
            return np.asarray(probabilities, dtype=np.float64)
        smoothed = np.empty(probabilities.shape)
        for start in range(0, len(neighbours), CHUNK):
            part = slice(start, start + CHUNK)
            nearest, own = neighbours[part, : SMOOTHING.neighbours], probabilities[part]
            near = self.probabilities[nearest]  # (chunk, neighbours, L)
            distances = np.linalg.norm(points[part, None] - self.points[nearest], axis=2)  # (chunk, neighbours)
            outside = np.maximum(distances / np.maximum(self.radius[nearest], 1e-12) - 1, 0)
            kernel = np.exp(-0.5 * (outside / SMOOTHING.bandwidth) ** 2)  # (chunk, neighbours)
            weights = near.max(axis=2) * kernel
            total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
            mean = np.einsum("nk,nkl->nl", weights, near) / total  # (chunk, L)
            certainty = mean.max(axis=1) / np.maximum(own.max(axis=1), 1e-12)  # (chunk,)
            share = SMOOTHING.largest_share * np.minimum(kernel.mean(axis=1) * certainty, 1)[:, None]
            # A cell whose probabilities are all 0 keeps these zeros.
            smoothed[part] = ((1 - share) * own + share * mean) * (own.max(axis=1, keepdims=True) > 0)
        return smoothed

    def nearest(self, points: Floats, rows: Rows) -> Rows:
        """Return the positions in the sample of each cell's 14 nearest other cells, nearest first.

        The shape is (n, 14). In a sample of fewer than 100 cells no neighbours are searched, and the shape is (n, 0).

        Parameters
        ----------
        points
            Coordinates of the cells, shape (n, D).
        rows
            Row numbers of the cells in the query, shape (n,), so that no cell is its own neighbour.
        """
        if len(self.rows) < SMOOTHING.least_cells:
            return np.empty((len(points), 0), dtype=np.int64)
        position = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        own = np.where(self.rows[position] == rows, position, -1)
        count = SMOOTHING.expression_neighbours
        if self._clusters is not None:
            neighbours: Rows = self._clusters.nearest(points, own, count)
            return neighbours
        neighbours = np.empty((len(points), count), dtype=np.int64)
        for start in range(0, len(points), DISTANCES):
            part = slice(start, start + DISTANCES)
            neighbours[part] = self._nearest(points[part], own[part], count)
        return neighbours

    def _nearest(self, points: Floats, own: Rows, count: int) -> Rows:
        """Return the positions of each cell's nearest sample cells, shape (n, count), from all distances.

        ``own``, shape (n,), is the position of each cell in the sample; -1 for a cell outside of the sample.
        """
        # One matrix product gives the squared distances minus each point's own squared length.
        distances = np.concatenate([-2 * points, np.ones((len(points), 1))], axis=1) @ self._sample  # (n, blocks BLOCK)
        in_sample = np.flatnonzero(own >= 0)
        distances[in_sample, own[in_sample]] = np.inf
        # The nearest cells are in the blocks that hold the smallest distances.
        blocks = distances.reshape(len(points), BLOCK, -1)
        nearest = _smallest(blocks.min(axis=1), count)  # (n, 14 or fewer)
        candidates = (nearest[:, None] + np.arange(BLOCK)[:, None] * blocks.shape[2]).reshape(len(points), -1)
        of_candidates = np.take_along_axis(distances, candidates, axis=1)
        best = np.take_along_axis(candidates, _smallest(of_candidates, count), axis=1)  # (n, 14)
        order = np.argsort(np.take_along_axis(distances, best, axis=1), axis=1, kind="stable")
        return np.asarray(np.take_along_axis(best, order, axis=1))

    @cached_property
    def _clusters(self) -> Any:
        """The sample, divided into clusters for the compiled search; None for the search in NumPy."""
        kernel = compiled("nearest", len(self.rows))
        return kernel and kernel.ClusteredPoints.fit(self.points)

    @cached_property
    def _sample(self) -> npt.NDArray[np.float64]:
        """Coordinates and squared lengths of the sample, shape (D + 1, k), padded with points at infinity."""
        columns = np.concatenate([self.points, (self.points**2).sum(axis=1, keepdims=True)], axis=1)  # (k, D + 1)
        sample = np.zeros((columns.shape[1], -(-len(columns) // BLOCK) * BLOCK))
        sample[-1] = np.inf
        sample[:, : len(columns)] = columns.T
        return sample


def _smallest(values: npt.NDArray[np.float64], count: int) -> Rows:
    """Return the positions of the ``count`` smallest values of each row, in any order, shape (n, count).

    If a row has fewer values, the positions of all values are returned.
    """
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, count - 1, axis=1)[:, :count]

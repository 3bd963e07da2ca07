"""Cells that look alike should have like labels: each cell's probabilities, averaged with those of its neighbours.

A classifier sees a query through the reference: genes, scaling and components are those that tell the reference's
cells apart. Among themselves, the query's cells share their technology, donor and treatment, so their own neighbours
know what the classifier cannot see: that a cell which looks half ductal and half acinar lies in the middle of ductal
cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import eigh

from spikgpt.cells.align import mean_and_std

Floats = npt.NDArray[np.floating[Any]]

# Among fewer cells the nearest may be of another type.
MINIMUM_CELLS = 100
NEIGHBOURS = 5
# Neighbours whose expression is averaged with a cell's own, to tell how familiar its kind is: many, against noise.
AROUND = 14
# Share of a cell's probabilities that its neighbours make up.
NEIGHBOUR_SHARE = 0.5
# Components of the space in which neighbours are sought, and what softens the scaling of genes that hardly vary.
COMPONENTS, SPREAD_FLOOR = 30, 0.3
# Cells held as dense rows at a time, and cells whose distances to the sample are in memory at a time.
CHUNK, DISTANCES = 1024, 128
# Distances of which the least is looked at first.
BLOCK = 128


@dataclass(frozen=True)
class OwnSpace:
    """The space that cells themselves span: the principal components of their scaled log expression.

    ``mean`` and ``std`` have shape (G,), ``directions`` (G, D), D at most 30.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]

    def place(self, logs: sparse.csr_matrix) -> npt.NDArray[np.float64]:
        """Return where cells lie, from log expression: (n, G) to (n, D)."""
        points = np.empty((logs.shape[0], self.directions.shape[1]))
        for part, rows in self.scaled(logs):
            points[part] = rows @ self.directions
        return points

    def scaled(self, logs: sparse.csr_matrix) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Give the scaled values a few cells at a time, shape (chunk, G)."""
        for start in range(0, logs.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            yield part, (logs[part].toarray() - self.mean) / (self.std + SPREAD_FLOOR)


def own_space(logs: sparse.csr_matrix) -> OwnSpace:
    """Return the space that cells span by themselves, from log expression, shape (n, G).

    Nothing of a reference enters but the choice of the genes.
    """
    size = logs.shape[1]
    if not logs.shape[0]:
        return OwnSpace(np.zeros(size), np.zeros(size), np.zeros((size, 0)))
    mean, std = mean_and_std(logs)
    space = OwnSpace(mean, std, np.empty((size, 0)))
    products = np.zeros((size, size))
    for _, rows in space.scaled(logs):
        products += rows.T @ rows
    # The last ones, which belong to the largest eigenvalues.
    _, directions = eigh(products, subset_by_index=(max(0, size - COMPONENTS), size - 1))
    return OwnSpace(mean, std, directions[:, ::-1])


@dataclass(frozen=True)
class Neighbourhood:
    """Cells that lend their probabilities to others near them.

    ``cells``, shape (k,), are their indices in the query, ``points``, shape (k, D), where they lie, and
    ``probabilities``, shape (k, L), what the classifier says of them alone.
    """

    cells: npt.NDArray[np.int64]
    points: Floats
    probabilities: Floats

    def smooth(self, probabilities: Floats, near: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Average each cell's label probabilities, shape (n, L), with those of its nearest cells.

        Half of the result is the cell's own; each neighbour adds to the other half by how confident it is itself.

        Parameters
        ----------
        near
            What :meth:`nearest` returns for these cells. Without neighbours the probabilities stay as they are.
        """
        if not near.shape[1]:
            return np.asarray(probabilities, dtype=np.float64)
        smoothed = np.empty(probabilities.shape)
        for start in range(0, len(near), CHUNK):
            part = slice(start, start + CHUNK)
            lent = self.probabilities[near[part, :NEIGHBOURS]]  # (chunk, neighbours, L)
            weights = lent.max(axis=2)  # (chunk, neighbours)
            around = np.einsum("nk,nkl->nl", weights, lent) / weights.sum(axis=1, keepdims=True)  # (chunk, L)
            smoothed[part] = (1 - NEIGHBOUR_SHARE) * probabilities[part] + NEIGHBOUR_SHARE * around
        return smoothed

    def nearest(self, points: Floats, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions in ``self.cells`` of each cell's 14 nearest other cells, nearest first.

        With fewer than 100 cells there are too few neighbours to ask, and none is returned, shape (n, 0).

        Parameters
        ----------
        points
            Where the cells lie, shape (n, D).
        cells
            Indices of the cells in the query, shape (n,): no cell is a neighbour of itself.
        """
        if len(self.cells) < MINIMUM_CELLS:
            return np.empty((len(points), 0), dtype=np.int64)
        near = np.empty((len(points), AROUND), dtype=np.int64)
        for start in range(0, len(points), DISTANCES):
            part = slice(start, start + DISTANCES)
            near[part] = self._nearest(points[part], cells[part])
        return near

    def _nearest(self, points: Floats, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # Squared, less each point's own squared length, in one product.
        distances = np.concatenate([-2 * points, np.ones((len(points), 1))], axis=1) @ self._others  # (n, blocks BLOCK)
        place = np.searchsorted(self.cells, cells)
        own = np.flatnonzero(self.cells[np.minimum(place, len(self.cells) - 1)] == cells)
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


def _smallest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return where the smallest values of each row are, in no order: (n, k) to (n, count), or (n, k) for fewer."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, count - 1, axis=1)[:, :count]

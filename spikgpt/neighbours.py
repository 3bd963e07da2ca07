"""Cells that look alike should have like labels: each cell's probabilities, averaged with those of its neighbours.

A classifier sees a query through the reference: genes, scaling and components are those that tell the reference's
cells apart. Among themselves, the query's cells share their technology, donor and treatment, so their own neighbours
know what the classifier cannot see: that a cell which looks half ductal and half acinar lies in the middle of ductal
cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.data import mean_and_std

Floats = npt.NDArray[np.floating[Any]]

# Among fewer cells the nearest may be of another type.
MINIMUM_CELLS = 100
NEIGHBOURS = 5
# Share of a cell's probabilities that its neighbours make up.
NEIGHBOUR_SHARE = 0.5
# Components of the space in which neighbours are sought, and what softens the scaling of genes that hardly vary.
COMPONENTS, SPREAD_FLOOR = 30, 0.3
# Neighbours are sought among at most this many cells, so that the time grows with the number of cells, not its square.
CANDIDATES = 20_000
# Cells held as dense rows at a time.
CHUNK = 1024


def own_components(logs: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return cells in the space that they themselves span: principal components of log expression, (n, G) to (n, D).

    D is at most 30. Nothing of a reference enters but the choice of the genes.
    """
    if not logs.shape[0]:
        return np.empty((0, 0))
    mean, std = mean_and_std(logs)
    size = logs.shape[1]

    def chunks() -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        for start in range(0, logs.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            yield part, (logs[part].toarray() - mean) / (std + SPREAD_FLOOR)  # (chunk, G)

    products = np.zeros((size, size))
    for _, rows in chunks():
        products += rows.T @ rows
    _, directions = np.linalg.eigh(products)  # columns, smallest first
    directions = directions[:, : -COMPONENTS - 1 : -1]  # (G, D)
    points = np.empty((logs.shape[0], directions.shape[1]))
    for part, rows in chunks():
        points[part] = rows @ directions
    return points


def nearest(points: Floats, count: int = NEIGHBOURS) -> npt.NDArray[np.int64]:
    """Return the indices of each point's nearest other points, nearest first: (n, D) to (n, count)."""
    points = points.astype(np.float64)
    # Evenly spaced along the first component: the choice does not depend on the order of the cells.
    ranked = np.argsort(points[:, 0], kind="stable")
    step = max(1, -(-len(points) // CANDIDATES))
    candidates = np.sort(ranked[::step])
    others = points[candidates]
    lengths = (others**2).sum(axis=1)
    found = np.empty((len(points), count), dtype=np.int64)
    for start in range(0, len(points), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(points)))
        distances = lengths - 2 * points[rows] @ others.T  # (chunk, candidates), less each row's own squared length
        distances[candidates == rows[:, None]] = np.inf
        best = np.argpartition(distances, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(distances, best, axis=1), axis=1, kind="stable")
        found[rows] = candidates[np.take_along_axis(best, order, axis=1)]
    return found


def smooth(probabilities: Floats, points: Floats) -> npt.NDArray[np.float64]:
    """Average each cell's label probabilities, shape (n, L), with those of its nearest cells.

    Half of the result is the cell's own; each neighbour adds to the other half by how confident it is itself.

    Parameters
    ----------
    points
        The cells in the space in which neighbours are sought, shape (n, D).

    Returns
    -------
    Probabilities, shape (n, L); as they came for fewer than 100 cells, which have too few neighbours to ask.
    """
    if len(points) < MINIMUM_CELLS:
        return np.asarray(probabilities)
    neighbours = probabilities[nearest(points)]  # (n, neighbours, L)
    weights = neighbours.max(axis=2)  # (n, neighbours)
    around = np.einsum("nk,nkl->nl", weights, neighbours) / weights.sum(axis=1, keepdims=True)  # (n, L)
    return np.asarray((1 - NEIGHBOUR_SHARE) * probabilities + NEIGHBOUR_SHARE * around)

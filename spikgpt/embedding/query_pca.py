"""The space that a query's cells span by themselves, in which their neighbours are sought."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import eigh

from spikgpt.cells.align import mean_and_std

# Components of the space, and what softens the scaling of genes that hardly vary.
COMPONENTS, SPREAD_FLOOR = 30, 0.3
# Cells held as dense rows at a time.
CHUNK = 1024


@dataclass(frozen=True)
class QueryPCA:
    """Principal components of the scaled log expression of a query's own cells.

    ``mean`` and ``std`` have shape (G,), ``directions`` (G, D), D at most 30.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, logs: sparse.csr_matrix) -> QueryPCA:
        """Learn the space from log expression, shape (n, G); of a reference only the choice of genes enters."""
        size = logs.shape[1]
        if not logs.shape[0]:
            return cls(np.zeros(size), np.zeros(size), np.zeros((size, 0)))
        mean, std = mean_and_std(logs)
        space = cls(mean, std, np.empty((size, 0)))
        products = np.zeros((size, size))
        for _, rows in space._scaled(logs):
            products += rows.T @ rows
        # The last ones, which belong to the largest eigenvalues.
        _, directions = eigh(products, subset_by_index=(max(0, size - COMPONENTS), size - 1))
        return cls(mean, std, directions[:, ::-1])

    def place(self, logs: sparse.csr_matrix) -> npt.NDArray[np.float64]:
        """Return where cells lie, from log expression: (n, G) to (n, D)."""
        points = np.empty((logs.shape[0], self.directions.shape[1]))
        for part, rows in self._scaled(logs):
            points[part] = rows @ self.directions
        return points

    def _scaled(self, logs: sparse.csr_matrix) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Give the scaled values a few cells at a time, shape (chunk, G)."""
        for start in range(0, logs.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            yield part, (logs[part].toarray() - self.mean) / (self.std + SPREAD_FLOOR)

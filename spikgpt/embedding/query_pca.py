"""Principal components of a query, in which the neighbours of its cells are searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import eigh

from spikgpt.cells.align import mean_and_std
from spikgpt.constants import CONSTANTS

PCA = CONSTANTS.query_pca
# Cells in memory as dense rows at a time.
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
        """Fit to log expression of the genes that query and reference share, shape (n, G)."""
        size = logs.shape[1]
        if not logs.shape[0]:
            return cls(np.zeros(size), np.zeros(size), np.zeros((size, 0)))
        mean, std = mean_and_std(logs)
        pca = cls(mean, std, np.empty((size, 0)))
        products = np.zeros((size, size))
        for _, rows in pca._scaled(logs):
            products += rows.T @ rows
        # The eigenvalues are in ascending order.
        _, directions = eigh(products, subset_by_index=(max(0, size - PCA.components), size - 1))
        return cls(mean, std, directions[:, ::-1])

    def transform(self, logs: sparse.csr_matrix) -> npt.NDArray[np.float64]:
        """Return the coordinates of cells from their log expression, (n, G) to (n, D)."""
        points = np.empty((logs.shape[0], self.directions.shape[1]))
        for part, rows in self._scaled(logs):
            points[part] = rows @ self.directions
        return points

    def _scaled(self, logs: sparse.csr_matrix) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Yield scaled values in chunks of cells, shape (chunk, G)."""
        for start in range(0, logs.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            yield part, (logs[part].toarray() - self.mean) / (self.std + PCA.spread_floor)

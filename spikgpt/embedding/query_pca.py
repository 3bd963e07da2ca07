"""Principal components of a query, in which the neighbours of its cells are searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import eigh
from scipy.linalg.blas import dsyrk

from spikgpt.cells.align import mean_and_std
from spikgpt.constants import CONSTANTS
from spikgpt.threads import one_blas_thread

PCA = CONSTANTS.query_pca
# Number of cells that are in memory as dense rows at a time.
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
        products = np.zeros((size, size), order="F")
        for start in range(0, logs.shape[0], CHUNK):
            rows = (logs[start : start + CHUNK].toarray() - mean) / (std + PCA.spread_floor)  # (chunk, G)
            # The matrix of products is symmetric, so the lower triangle is enough.
            products = dsyrk(1.0, rows.T, 1.0, products, lower=True, overwrite_c=True)
        # The eigenvalues are in ascending order.
        with one_blas_thread():
            _, directions = eigh(products, lower=True, subset_by_index=(max(0, size - PCA.components), size - 1))
        return cls(mean, std, np.ascontiguousarray(directions[:, ::-1]))

    def transform(self, logs: sparse.csr_matrix) -> npt.NDArray[np.float64]:
        """Return the coordinates of cells, shape (n, D), from their log expression, shape (n, G)."""
        # The mean is subtracted after the product, so that the rows in the product are sparse.
        scaled = self.directions / (self.std + PCA.spread_floor)[:, None]  # (G, D)
        return np.asarray(logs.astype(np.float64) @ scaled - self.mean @ scaled)

"""What scmap-cluster and scmap-cell share: their values, and the genes that they compare cells by.

Written from Kiselev, Yiu and Hemberg, Nature Methods 2018, doi:10.1038/nmeth.4644.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

from spikgpt.benchmark.methods.answer import Settings
from spikgpt.benchmark.methods.preparing import linear_of
from spikgpt.types import Rows

N_FEATURES = 500


def log_counts(cells: AnnData, settings: Settings | None = None) -> sparse.csr_matrix:
    """Return log2(1 + count), shape (n, G), which both methods work on; ``settings`` say what a query holds."""
    logs = linear_of(cells, settings)
    logs.data = np.log2(logs.data + 1)
    return logs


def chosen_genes(logs: sparse.csr_matrix, n_features: int = N_FEATURES) -> Rows:
    """Return the columns of the genes that more cells lack than their mean expression explains, sorted.

    Of genes that some cells have and some lack, log2 of the percentage of cells that lack them is regressed on their
    mean log count; the largest residuals win.
    """
    n_cells = logs.shape[0]
    lacking = 100 * (n_cells - logs.getnnz(axis=0)) / n_cells
    usable = np.flatnonzero((lacking > 0) & (lacking < 100))
    mean = np.asarray(logs.mean(axis=0)).ravel()[usable]
    dropout = np.log2(lacking[usable])
    slope, intercept = np.polyfit(mean, dropout, 1)
    residuals = dropout - (intercept + slope * mean)
    return np.sort(usable[np.argsort(-residuals, kind="stable")[:n_features]])


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows of length 1; a row of zeros becomes NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled

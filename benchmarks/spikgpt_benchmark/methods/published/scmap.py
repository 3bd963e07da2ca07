"""Log counts and gene selection of scmap-cluster and scmap-cell.

Written from Kiselev, Yiu and Hemberg, Nature Methods 2018, doi:10.1038/nmeth.4644.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

from spikgpt.types import Rows
from spikgpt_benchmark.methods.preprocess import to_linear
from spikgpt_benchmark.methods.result import MethodSettings

N_FEATURES = 500


def log_counts(cells: AnnData, settings: MethodSettings | None = None) -> sparse.csr_matrix:
    """Return log2(1 + count), shape (n, G); ``settings`` describe the values of a query."""
    logs = to_linear(cells, settings)
    logs.data = np.log2(logs.data + 1)
    return logs


def select_genes(logs: sparse.csr_matrix, n_features: int = N_FEATURES) -> Rows:
    """Return the columns of the genes with more dropouts than their mean expression explains, sorted.

    Genes that are detected in some cells only are used. For these, log2 of the percentage of dropouts is regressed on
    the mean log count, and the genes of the largest residuals are chosen.
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

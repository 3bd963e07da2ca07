"""Detect transformations that cannot be undone: scaling of genes, offsets, imputation, rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

# Smallest numbers of cells and genes in which a transformation can be detected.
TELLING_CELLS, TELLING_GENES = 50, 200
# Only genes that are detected in at least this share and this number of cells are used.
LEAST_SHARE, LEAST_CELLS = 0.01, 5
# In counts and logs, genes detected in more cells have higher values: rank correlation 0.1 to 0.9 in 16 studies. After
# scaling of each gene the correlation was 0 to -1, because rare genes have small deviations.
LEAST_CORRELATION = -0.2
# Deviations or maxima count as constant if they vary by at most this share of their mean.
CONSTANT = 0.1
# No single-cell technology detects a share of DENSE_SHARE of DENSE_GENES genes or more in a cell.
DENSE_SHARE, DENSE_GENES = 0.7, 1000
# After an offset at least OFFSET_SHARE of the values are not 0. The most frequent value of a gene, a former 0, then
# occurs in at least TIED_SHARE of the cells.
OFFSET_SHARE, TIED_SHARE = 0.95, 0.2
# In cells with ROUNDED_GENES genes or more, some counts exceed ROUNDED_MOST. In cells with PANEL_GENES genes or more,
# if no count exceeds ROUNDED_MOST, at least ONES_SHARE of the counts are 1.
ROUNDED_GENES, ROUNDED_MOST, PANEL_GENES, ONES_SHARE = 300, 15.0, 150, 0.5
# Among this number of counts, some are larger than 1.
TELLING_ONES = 1000
# If no count exceeds BYTE_MOST, the largest value of a byte, at least a share of FEW_ONES of the counts are 1.
BYTE_MOST, FEW_ONES = 255.0, 0.1


def gene_scaling(sample: sparse.csr_matrix) -> str:
    """Return a phrase if the genes of a sample, shape (n, G), were scaled one by one; otherwise an empty text."""
    n_cells = sample.shape[0]
    columns = sparse.csc_matrix(sample, dtype=np.float64)
    cells = np.diff(columns.indptr)
    genes = np.flatnonzero(cells >= max(LEAST_CELLS, LEAST_SHARE * n_cells))
    if n_cells < TELLING_CELLS or len(genes) < TELLING_GENES:
        return ""
    sums = np.asarray(columns.sum(axis=0)).ravel()[genes]
    squares = np.asarray(columns.multiply(columns).sum(axis=0)).ravel()[genes]
    deviations = np.sqrt(np.maximum(squares / n_cells - (sums / n_cells) ** 2, 0))
    largest = columns.max(axis=0).toarray().ravel()[genes]
    if _is_constant(deviations):
        return "holds genes of one standard deviation, as scaled data does"
    if _is_constant(largest):
        return "holds genes of one maximum, as data scaled to a range does"
    values = sums / cells[genes]
    if np.ptp(values) > 0 and np.ptp(cells[genes]) > 0 and _rank_correlation(cells[genes], values) < LEAST_CORRELATION:
        return "holds its highest values in the rarest genes, as genes scaled one by one or TF-IDF do"
    return ""


def missing_zeros(sample: sparse.csr_matrix) -> str:
    """Return a phrase if a sample, shape (n, G), has too few zeros for counts or logs; otherwise an empty text."""
    cells, genes = sample.shape
    used = np.flatnonzero(sample.getnnz(axis=0))
    if genes < TELLING_GENES or sample.nnz < DENSE_SHARE * cells * len(used):
        return ""
    share = f"{100 * sample.nnz / (cells * len(used)):.0f}%"
    few = np.sort(sample[: 4 * TELLING_CELLS].toarray()[:, used], axis=0)
    offset = sample.nnz >= OFFSET_SHARE * cells * len(used)
    if offset and len(few) >= TELLING_CELLS and np.median(_longest_runs(few)) >= TIED_SHARE * len(few):
        return f"holds {share} values that are not 0, as after an offset, a pseudocount or centring"
    whole = (np.rint(sample.data) == sample.data).all()
    if len(few) >= TELLING_CELLS and genes >= DENSE_GENES and not whole:
        return f"holds {share} values that are not 0, as imputed or denoised data does"
    return ""


def no_counts(whole: sparse.csr_matrix) -> str:
    """Return a phrase if whole numbers, shape (n, G), cannot be counts; otherwise an empty text."""
    largest = float(whole.data.max())
    if largest <= 1:
        return f"holds {whole.nnz} values that are all 1, as binarised data does" if whole.nnz >= TELLING_ONES else ""
    if whole.shape[0] < TELLING_CELLS:
        return ""
    genes = float(np.median(np.diff(whole.indptr)))
    ones = float((whole.data == 1).mean())
    values = f"up to {largest:g} in cells of {genes:g} genes, {100 * ones:.0f}% of them 1"
    if genes >= ROUNDED_GENES and all(len(np.unique(row.data)) == row.nnz for row in whole[:TELLING_CELLS]):
        return "holds whole numbers that are all different within a cell, as ranks are"
    if largest <= ROUNDED_MOST and (genes >= ROUNDED_GENES or (genes >= PANEL_GENES and ones < ONES_SHARE)):
        return f"holds whole numbers {values}, as rounded logarithms do"
    if largest <= BYTE_MOST and genes >= ROUNDED_GENES and ones < FEW_ONES:
        return f"holds whole numbers {values}, as values that were scaled to whole numbers do"
    return ""


def _rank_correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return Spearman's rank correlation of two arrays.

    The function avoids scipy.stats, because that import takes longer than labelling a small file.
    """
    return float(np.corrcoef(pd.Series(first).rank(), pd.Series(second).rank())[0, 1])


def _is_constant(values: npt.NDArray[Any]) -> bool:
    return bool(values.std() <= CONSTANT * values.mean())


def _longest_runs(ordered: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the number of times that each column's most frequent value occurs, shape (G,).

    Each column of ``ordered``, shape (n, G), is sorted.
    """
    runs = longest = np.ones(ordered.shape[1], dtype=np.int64)
    for above, below in zip(ordered, ordered[1:], strict=False):
        runs = np.where(above == below, runs + 1, 1)
        longest = np.maximum(longest, runs)
    return longest

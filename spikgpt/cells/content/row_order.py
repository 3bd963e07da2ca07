"""Order of rows: two matrices of the same cells have the same cell in each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.matrices import read_rows
from spikgpt.errors import DataError
from spikgpt.types import Rows

if TYPE_CHECKING:
    import pandas as pd

# Cells that are compared, and the genes that vary most among them.
COMPARED_CELLS, COMPARED_GENES = 100, 1000
# Fewer cells or genes than these say too little.
LEAST_CELLS, LEAST_GENES = 20, 20
# A cell is out of place where its own row correlates less than the median of the other rows. In 6 studies this held for
# 0 to 2% of the cells after scaling, regression, selection of 50 genes, denoising or smoothing; for 50% of shuffled
# rows, and for 17% and more where half of the rows were shuffled.
MOST_OUT_OF_PLACE = 0.1


def out_of_place(
    first: Any, second: Any, genes: tuple[pd.Index, pd.Index], columns: tuple[Rows | None, Rows | None]
) -> str:
    """Compare the rows of two matrices by the genes that both name.

    Parameters
    ----------
    first
        Counts or logarithms, shape (n, G).
    second
        Values that may be scaled, shape (n, H).
    genes
        Names of the genes of both.
    columns
        The columns of both that are these genes, None for all.

    Returns
    -------
    Phrase on the cells out of place; empty where the rows belong together, or where too few cells or genes tell.
    """
    n_cells = first.shape[0]
    rows = np.unique(np.linspace(0, n_cells - 1, min(n_cells, COMPARED_CELLS)).astype(np.int64))
    places = _shared(*genes)
    if len(rows) < LEAST_CELLS or len(places[0]) < LEAST_GENES:
        return ""
    try:
        one, other = (
            read_rows(matrix, rows, at if chosen is None else chosen[at])
            for matrix, at, chosen in zip((first, second), places, columns, strict=True)
        )
    except DataError:
        return ""
    correlations = _correlations(one, other)
    if len(correlations) < LEAST_CELLS:
        return ""
    wrong = int((correlations.diagonal() < np.median(correlations, axis=1)).sum())
    return f"{wrong} of {len(correlations)} sampled cells" if wrong > MOST_OUT_OF_PLACE * len(correlations) else ""


def _shared(first: pd.Index, second: pd.Index) -> tuple[Rows, Rows]:
    """Return the places of the names that both have once."""
    if first.equals(second):
        return np.arange(len(first)), np.arange(len(first))
    places = [np.flatnonzero(~names.duplicated(keep=False)) for names in (first, second)]
    found = second[places[1]].get_indexer(first[places[0]])
    return places[0][found >= 0], places[1][found[found >= 0]]


def _correlations(first: sparse.csr_matrix, second: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return the correlation of each row with each row of another matrix, without what all cells share, (n, n)."""
    matrices = []
    for rows in (first, second):
        values = rows.toarray().astype(np.float64)
        values[~np.isfinite(values)] = 0
        matrices.append(np.sign(values) * np.log1p(np.abs(values)))
    variation = matrices[0].std(axis=0) * (matrices[1].std(axis=0) > 0)
    chosen = np.argsort(-variation, kind="stable")[:COMPARED_GENES]
    chosen = chosen[variation[chosen] > 0]
    if len(chosen) < LEAST_GENES:
        return np.empty((0, 0))
    unit, known = [], np.ones(first.shape[0], dtype=bool)
    for values in matrices:
        centred = values[:, chosen] - values[:, chosen].mean(axis=1, keepdims=True)
        centred = (centred - centred.mean(axis=0)) / np.maximum(centred.std(axis=0), 1e-12)
        centred -= centred.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        known &= values[:, chosen].any(axis=1)
        unit.append(centred / np.maximum(lengths, 1e-12))
    return np.asarray(unit[0][known] @ unit[1][known].T)

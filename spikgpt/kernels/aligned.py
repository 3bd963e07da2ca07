"""Compiled alignment of cells in CSR form: values of a reference's genes, and sums over all genes.

The NumPy form is ``aligned_chunks`` in :mod:`spikgpt.cells.align`. Both forms return the same numbers, to the bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.kernels.jit import jit

# Number of places that sum up columns without a gene of the reference. Successive columns use different places, so that
# an addition need not wait for the previous addition.
SPARE_PLACES = 64


def lookup_table(genes: npt.NDArray[np.integer[Any]], n_genes: int) -> npt.NDArray[np.int32]:
    """Return the place of each column in the scratch memory, shape (columns,).

    ``genes``, shape (columns,), is the index of each column's gene in the reference, -1 for none.
    """
    spare = n_genes + np.arange(len(genes)) % SPARE_PLACES
    return np.where(genes >= 0, genes, spare).astype(np.int32)


@jit(reordered=True)
def aligned_values(
    stored: npt.NDArray[np.float32],
    linear: npt.NDArray[np.float32],
    indices: npt.NDArray[np.int32],
    indptr: npt.NDArray[np.int64],
    lookup: npt.NDArray[np.int32],
    n_genes: int,
    largest: float,
) -> tuple[Any, Any, Any, Any, bool, Any]:
    """Return the values of the reference's genes in CSR form, and the sums over all columns, of n cells.

    Parameters
    ----------
    stored, linear
        Stored values of n cells, and the same values as linear values.
    indices, indptr
        Column of each value, and index of the first value of each cell, shape (n + 1,).
    lookup
        Result of :func:`lookup_table`.
    largest
        Largest value that may be stored.

    Returns
    -------
    Six items. The first three are data, indices and indptr of the values of the reference's genes. The fourth holds the
    sums over all columns, shape (n,). The fifth is False if a value is negative, infinite, NaN or larger than
    ``largest``, or if a column is out of order or does not exist. The last is True for the cells in which all stored
    values are whole, shape (n,).
    """
    rows, columns = len(indptr) - 1, len(lookup)
    dense = np.zeros(n_genes + SPARE_PLACES)
    # One place more than values, as the place after the last value is written to as well.
    data, genes = np.empty(len(linear) + 1, np.float32), np.empty(len(linear) + 1, np.int32)
    starts, totals, whole = np.zeros(rows + 1, np.int32), np.zeros(rows), np.empty(rows, np.bool_)
    position, limit = 0, np.float32(largest)
    for row in range(rows):
        first, last = indptr[row], indptr[row + 1]
        before, values, row_columns = stored[first:last], linear[first:last], indices[first:last]
        bad, broken, total, top = np.int32(0), np.int32(0), 0.0, np.float32(0)
        for at in range(len(values)):  # compiled to vector instructions
            bad += np.int32(not ((before[at] >= 0) & (before[at] <= limit)))
            broken += np.int32(np.rint(before[at]) != before[at])
        for at in range(len(values)):
            total += np.float64(values[at])
            top = max(top, values[at])
        for at in range(len(row_columns)):
            bad += np.int32((row_columns[at] < 0) | (row_columns[at] >= columns))
        for at in range(1, len(row_columns)):
            bad += np.int32(row_columns[at] <= row_columns[at - 1])
        if bad:
            return data[:0], genes[:0], starts, totals, False, whole
        whole[row] = broken == 0
        if broken:
            # Sums on a grid are exact, so that they do not depend on the order of columns; see row_sums.
            grid, total = math.ldexp(1.0, math.frexp(np.float64(top))[1] - 32), 0.0
            for at in range(len(values)):
                total += np.rint(np.float64(values[at]) / grid) * grid
        totals[row] = total
        for at in range(len(values)):
            dense[lookup[row_columns[at]]] += np.float64(values[at])
        for gene in range(n_genes):
            # Every value is written. The next value overwrites a zero, which is faster than a branch.
            data[position], genes[position] = dense[gene], gene
            position += data[position] != 0
        for gene in range(len(dense)):
            dense[gene] = 0.0
        starts[row + 1] = position
    return data[:position], genes[:position], starts, totals, True, whole

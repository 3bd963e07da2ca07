"""Compiled functions that turn a matrix stored dense or by columns into sparse rows.

The NumPy forms are ``sparse_rows`` in :mod:`spikgpt.cells.on_disk` and ``RowBuckets`` in
:mod:`spikgpt.cells.row_buckets`. Both forms return the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.kernels.jit import jit


@jit()
def append_nonzeros(
    dense: npt.NDArray[Any],
    first: int,
    data: npt.NDArray[np.float32],
    columns: npt.NDArray[np.int32],
    position: int,
    ends: npt.NDArray[np.int64],
) -> int:
    """Append the nonzero values of a tile row by row, and return the position after the last value.

    Parameters
    ----------
    dense
        Values of the tile, shape (n, columns).
    first
        Column of the matrix in which the tile begins.
    data, columns
        Arrays that the values and their columns are written to; each needs one position more than there are values.
    position
        Position in ``data`` of the first value.
    ends
        Array that the position after the last value of each row is written to, shape (n,).
    """
    for row in range(dense.shape[0]):
        values, start = dense[row], position
        for column in range(len(values)):
            # Every column number is written. The next column number overwrites that of a zero, which is faster than a
            # branch.
            columns[position] = column
            position += values[column] != 0
        for at in range(start, position):
            data[at] = values[columns[at]]
            columns[at] += first
        ends[row] = position
    return position


@jit()
def side_by_side(
    data: npt.NDArray[np.float32], columns: npt.NDArray[np.int32], ends: npt.NDArray[np.int64]
) -> tuple[Any, Any, Any]:
    """Join tiles of the same n rows, written by :func:`append_nonzeros`, and return data, indices and indptr.

    Parameters
    ----------
    ends
        Position after the last value of each row in each tile, shape (tiles, n).
    """
    tiles, rows = ends.shape
    starts = np.zeros(rows + 1, np.int64)
    values, indices = np.empty(ends[-1, -1], np.float32), np.empty(ends[-1, -1], np.int32)
    position = 0
    for row in range(rows):
        for tile in range(tiles):
            first = ends[tile, row - 1] if row else (ends[tile - 1, rows - 1] if tile else 0)
            for at in range(first, ends[tile, row]):
                values[position], indices[position] = data[at], columns[at]
                position += 1
        starts[row + 1] = position
    return values, indices, starts


@jit()
def small_whole(values: npt.NDArray[np.float32], limit: int) -> bool:
    """Return True if all values are whole, not negative, and below ``limit``."""
    odd = np.int32(0)
    for at in range(len(values)):  # compiled to vector instructions
        odd |= np.int32(not ((values[at] >= 0) & (values[at] < limit) & (np.rint(values[at]) == values[at])))
    return bool(odd == 0)


@jit()
def distribute(
    codes: npt.NDArray[np.int32],
    rows: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    first: int,
    bits: int,
    packed: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    bucket_starts: npt.NDArray[np.int64],
) -> None:
    """Sort the values of a CSC matrix by buckets of rows; within a bucket, their order stays the same.

    Parameters
    ----------
    codes, rows, starts
        Values as integers, row of each value, and index of the first value of each column.
    first
        Number of the first column.
    bits
        Base-2 logarithm of the number of rows in a bucket.
    packed, columns
        Arrays that the sorted values, with the row in the last bits, and their column numbers are written to.
    bucket_starts
        Array of zeros that the index of each bucket's first value is written to, shape (buckets + 1,).
    """
    for at in range(len(rows)):
        bucket_starts[(rows[at] >> bits) + 1] += 1
    for bucket in range(len(bucket_starts) - 1):
        bucket_starts[bucket + 1] += bucket_starts[bucket]
    positions, mask = bucket_starts.copy(), (1 << bits) - 1
    for column in range(len(starts) - 1):
        for at in range(starts[column], starts[column + 1]):
            bucket = rows[at] >> bits
            position = positions[bucket]
            packed[position] = (np.int64(codes[at]) << bits) | (rows[at] & mask)
            columns[position] = first + column
            positions[bucket] = position + 1


@jit()
def sorted_rows(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], values: npt.NDArray[np.float32], n_rows: int
) -> tuple[Any, Any, Any, bool]:
    """Return data, indices and indptr of CSR rows from unsorted values, and True if no position has two values.

    Parameters
    ----------
    rows, columns, values
        Row and column of each value, and the values; the columns of one row are in ascending order.
    """
    starts = np.zeros(n_rows + 1, np.int64)
    for at in range(len(rows)):
        starts[rows[at] + 1] += 1
    for row in range(n_rows):
        starts[row + 1] += starts[row]
    positions, last, once = starts[:-1].copy(), np.full(n_rows, -1, np.int32), True
    data, indices = np.empty(len(rows), np.float32), np.empty(len(rows), np.int32)
    for at in range(len(rows)):
        row, column = rows[at], np.int32(columns[at])
        position = positions[row]
        data[position], indices[position] = values[at], column
        positions[row] = position + 1
        once &= column > last[row]
        last[row] = column
    return data, indices, starts, once

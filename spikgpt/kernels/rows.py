"""Rows of a matrix that is stored dense or by columns, compiled.

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
    """Append the values of a tile that are not 0, row by row, and return the position after the last value.

    Parameters
    ----------
    dense
        Values, shape (n, columns).
    first
        Column of the matrix in which the tile begins.
    data, columns
        Arrays to write to, with one position more than values.
    position
        Place of the first value.
    ends
        Array to write the position after the last value of each row to, shape (n,).
    """
    for row in range(dense.shape[0]):
        values, start = dense[row], position
        for column in range(len(values)):
            # Every column is written, and that of a zero is overwritten by the next one: this is faster than a branch.
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
    """Return data, indices and indptr of n rows from the values of tiles that :func:`append_nonzeros` has written.

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
    """Return True if all values are whole, not negative, and below a limit."""
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
        Values as integers, their rows, and the first value of each column.
    first
        Number of the first column.
    bits
        Rows of a bucket, as a power of 2.
    packed, columns
        Arrays to write to: values with the row in their last bits, and column numbers.
    bucket_starts
        Array of zeros to write the first value of each bucket to, shape (buckets + 1,).
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
    """Return data, indices and indptr of rows from values in any order, and True if each position has one value.

    Parameters
    ----------
    rows, columns, values
        Row, column and value of each; columns ascend within a row.
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

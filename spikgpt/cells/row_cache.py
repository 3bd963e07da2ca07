"""Keep blocks of rows in a temporary file, so that the rows need not be decompressed a second time."""

from __future__ import annotations

import tempfile
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.row_buckets import close_temporary


class RowCache:
    """Numbered blocks of rows, in a temporary file that is deleted even if the process is killed.

    Parameters
    ----------
    n_columns
        Number of columns of all blocks.
    """

    def __init__(self, n_columns: int) -> None:
        self._n_columns = n_columns
        self._positions: dict[int, int] = {}
        self._file = tempfile.TemporaryFile(prefix="spikgpt-")
        weakref.finalize(self, close_temporary, self._file)

    def add(self, number: int, rows: sparse.csr_matrix) -> None:
        """Store a block of rows; do nothing if the disk is full."""
        with suppress(OSError):
            position = self._file.seek(0, 2)
            save_rows(self._file, rows)
            self._file.flush()
            self._positions[number] = position

    def get(self, number: int) -> sparse.csr_matrix | None:
        """Return the block of rows with this number, or None if the block was not stored."""
        if number not in self._positions:
            return None
        self._file.seek(self._positions[number])
        return load_rows(self._file, self._n_columns)


def save_rows(file: Any, rows: sparse.csr_matrix) -> None:
    """Write rows to an open file; small counts take one byte each, and column indices two bytes."""
    indices = rows.indices.astype(np.uint16) if rows.shape[1] <= 1 << 16 else rows.indices
    for array in (_small(rows.data), indices, rows.indptr):
        np.save(file, array)


def load_rows(file: Any, n_columns: int) -> sparse.csr_matrix:
    """Return the rows that :func:`save_rows` wrote, from the current position of the file."""
    data, indices, starts = (np.load(file) for _ in range(3))
    data = data.astype(np.float32) if data.dtype == np.uint8 else data
    return sparse.csr_matrix((data, indices.astype(np.int32, copy=False), starts), (len(starts) - 1, n_columns))


def _small(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return float32 values as uint8 if no value changes; otherwise return the values as given."""
    if values.dtype != np.float32:
        return values
    with np.errstate(invalid="ignore"):
        small = values.astype(np.uint8)
    return small if np.array_equal(small, values) else values

"""Read rows of a matrix that is stored by columns, by way of a temporary file and in bounded memory.

The values are distributed to buckets of consecutive rows in one pass, as in a bucket sort. A bucket is sorted when its
rows are read.
"""

from __future__ import annotations

import errno
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.errors import ConfigError
from spikgpt.kernels import compiled

# Base-2 logarithm of the largest number of rows in a bucket. Largest number of values in a bucket, if all rows hold
# equally many values.
MOST_BITS, BUCKET_VALUES = 8, 512 * 1024
# Error codes of the system for a full disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def temporary_space(content: object) -> Iterator[None]:
    """Turn the error of a full temporary folder into a ConfigError; ``content`` names the data that is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        msg = (
            f"The temporary folder {tempfile.gettempdir()} has no room for {content}. Set the environment variable "
            "TMPDIR to a folder on a disk with more room."
        )
        raise ConfigError(msg) from None


def close_temporary(file: Any) -> None:
    """Close a temporary file; ignore an error if the rest of its content cannot be written."""
    with suppress(OSError):
        file.close()


class _Block(NamedTuple):
    """Position in the temporary file of one block of values, which are sorted by bucket.

    ``starts``, shape (buckets + 1,), are the indices of each bucket's first value. The column numbers start at byte
    ``columns`` of the file. The packed values, of type ``dtype``, start at byte ``packed``.
    """

    starts: npt.NDArray[np.integer[Any]]
    columns: int
    packed: int
    dtype: np.dtype[Any]


def bucket_bits(n_rows: int, n_values: int) -> int:
    """Return the base-2 logarithm of the number of rows in a bucket, for a matrix with about ``n_values`` values."""
    rows = BUCKET_VALUES * max(1, n_rows) // max(1, n_values)
    return min(MOST_BITS, max(1, rows).bit_length() - 1)


class RowBuckets:
    """Buckets of rows of a sparse matrix, in a temporary file that is deleted even if the process is killed.

    Parameters
    ----------
    shape
        Rows and columns of the matrix.
    bits
        Base-2 logarithm of the number of rows in a bucket; see :func:`bucket_bits`.
    """

    def __init__(self, shape: tuple[int, int], bits: int, name: object) -> None:
        self.shape, self._bits, self._name = shape, bits, name
        self._blocks: list[_Block] = []
        self._columns = np.dtype(np.uint16 if shape[1] <= 1 << 16 else np.int32)
        self._kernel: Any = compiled("rows", shape[0])
        self._file = tempfile.TemporaryFile(prefix="spikgpt-")
        weakref.finalize(self, close_temporary, self._file)

    def append(self, block: sparse.csc_matrix, first: int) -> None:
        """Append the values of consecutive columns; ``first`` is the number of the first column.

        Parameters
        ----------
        block
            All rows of these columns. Values are stored as float32.
        """
        starts, columns, packed = (self._by_bucket if self._kernel is None else self._by_bucket_compiled)(block, first)
        with temporary_space(f"{self._name}, which is stored by genes and is sorted by cells there"):
            at = self._file.seek(0, 2)
            self._file.write(columns.data)
            middle = self._file.tell()
            self._file.write(packed.data)
            self._file.flush()
        self._blocks.append(_Block(starts, at, middle, packed.dtype))

    def _by_bucket(self, block: sparse.csc_matrix, first: int) -> tuple[npt.NDArray[Any], ...]:
        """Return the index of each bucket's first value, and column numbers and packed values sorted by bucket."""
        packed = _packed(block.data, block.indices & ((1 << self._bits) - 1), self._bits)
        # SciPy's conversion from CSC to CSR is a counting sort by bucket.
        shape = (-(-self.shape[0] >> self._bits), block.shape[1])
        by_bucket = sparse.csc_matrix((packed, block.indices >> self._bits, block.indptr), shape=shape).tocsr()
        columns = by_bucket.indices
        columns += first
        return by_bucket.indptr, columns.astype(self._columns), by_bucket.data

    def _by_bucket_compiled(self, block: sparse.csc_matrix, first: int) -> tuple[npt.NDArray[Any], ...]:
        with np.errstate(over="ignore"):
            values = block.data.astype(np.float32, copy=False)
        small = self._kernel.small_whole(values, 1 << (31 - self._bits))
        codes = values.astype(np.int32) if small else values.view(np.int32)
        columns = np.empty(len(codes), dtype=self._columns)
        packed = np.empty(len(codes), dtype=np.int32 if small else np.int64)
        starts = np.zeros((-(-self.shape[0] >> self._bits)) + 1, dtype=np.int64)
        self._kernel.distribute(codes, block.indices, block.indptr, first, self._bits, packed, columns, starts)
        return starts, columns, packed

    def read(self, bucket: int) -> sparse.csr_matrix:
        """Return the rows of a bucket in float32, with sorted columns; repeated values of one position are summed."""
        ends = np.cumsum([0, *(block.starts[bucket + 1] - block.starts[bucket] for block in self._blocks)])
        n_values = int(ends[-1])
        columns = np.empty(n_values, dtype=self._columns)
        rows, values = np.empty(n_values, dtype=np.int32), np.empty(n_values, dtype=np.float32)
        for block, start, end in zip(self._blocks, ends[:-1], ends[1:], strict=True):
            part, skipped = slice(start, end), int(block.starts[bucket])
            packed = np.empty(end - start, dtype=block.dtype)
            for array, at in ((columns[part], block.columns), (packed, block.packed)):
                self._file.seek(at + skipped * array.itemsize)
                self._file.readinto(array.data)
            rows[part], values[part] = _unpacked(packed, self._bits)
        n_rows = min(1 << self._bits, self.shape[0] - (bucket << self._bits))
        if self._kernel is not None:
            *parts, once = self._kernel.sorted_rows(rows, columns, values, n_rows)
            if once:
                return sparse.csr_matrix(tuple(parts), shape=(n_rows, self.shape[1]))
        # SciPy's conversion from COO to CSR is a counting sort by row, which keeps the order of columns.
        return sparse.coo_matrix((values, (rows, columns.astype(np.int32))), shape=(n_rows, self.shape[1])).tocsr()


def _packed(values: npt.NDArray[Any], rows: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Pack each value and its row in the bucket into one integer: 32 bits for small whole values, else 64 bits.

    The row takes the lowest ``bits`` bits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32, copy=False)
        whole = values.astype(np.int32)
    if len(values) and whole.min() >= 0 and whole.max() < 1 << (31 - bits) and np.array_equal(whole, values):
        whole <<= bits
        whole |= rows.astype(np.int32, copy=False)
        return whole
    packed = values.view(np.int32).astype(np.int64)
    packed <<= bits
    packed |= rows
    return packed


def _unpacked(packed: npt.NDArray[Any], bits: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the rows in the bucket and the values that :func:`_packed` has packed."""
    rows, values = packed & ((1 << bits) - 1), packed >> bits
    return rows, values if packed.dtype == np.int32 else values.astype(np.int32).view(np.float32)

"""Rows of matrices in an open store, read on demand: CSR, CSC and dense."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from spikgpt.cells.gzip_arrays import GzipArray, fast_array
from spikgpt.cells.matrices import (
    BLOCK_VALUES,
    PARTS,
    MatrixOnDisk,
    StoredRows,
    check_columns,
    check_numbers,
    stored_matrix,
)
from spikgpt.cells.progress import inner_bar
from spikgpt.cells.row_buckets import RowBuckets, bucket_bits
from spikgpt.cells.row_cache import RowCache
from spikgpt.cells.storage import is_array
from spikgpt.kernels import compiled
from spikgpt.types import Integers

# Number of bytes of a dense matrix that are read at a time. For larger arrays the C library requests new memory each
# time, which takes longer.
TILE_BYTES = 8 * 1024 * 1024
# Chunks of more bytes are kept after a read, because the next read may need the rest of the last chunk. The HDF5
# library itself keeps smaller chunks.
LARGE_CHUNK = 8 * 1024 * 1024
# Largest size in bytes of one row of decoded chunks of a dense matrix. With chunks of more rows, the values are sorted
# by cells in a temporary file.
BAND_BYTES = 512 * 1024 * 1024
# Smallest chunk in bytes that is read as a tile of its own, if the chunk is compressed with gzip.
SEPARATE_CHUNK = 128 * 1024
# Approximate number of values of a dense matrix per value that is not 0.
TYPICAL_ZEROS = 10
# Number of consecutive rows of a CSR matrix that are read together, even if only some of the rows are wanted.
SPAN = 32


def keep_on_disk(matrix: Any, name: object) -> Any:
    """Return a matrix of an AnnData; a matrix on disk becomes a :class:`MatrixOnDisk`, which reads rows on demand."""
    is_sparse = isinstance(matrix, CSRDataset | CSCDataset)
    if not is_sparse and not is_array(matrix):
        return matrix
    stored = stored_matrix(matrix.group if is_sparse else matrix, name)
    if not is_sparse:
        return StoredDense(stored, name)
    return (StoredCSR if stored.format == "csr" else StoredCSC)(stored, name)


class StoredCSR(MatrixOnDisk):
    """A CSR matrix of an open store."""

    def __init__(self, stored: Any, name: object) -> None:
        super().__init__(name, stored.shape)
        self._starts = np.asarray(stored.group["indptr"][:], dtype=np.int64)
        self._parts = [_Values(fast_array(stored.group[part])) for part in PARTS[:2]]
        # The average number of rows in a chunk.
        values = max(1, int(self._starts[-1]))
        self.span = max(SPAN, max(part.chunk for part in self._parts) * self.shape[0] // values)

    def stored_rows(self, start: int, stop: int) -> StoredRows:
        """Return the rows ``start`` to ``stop`` (excluded) as they are stored."""
        first, last = int(self._starts[start]), int(self._starts[stop])
        data, indices = (part.read(first, last) for part in self._parts)
        return StoredRows(data, indices, self._starts[start : stop + 1] - first)


class _Banded(MatrixOnDisk):
    """A matrix on disk that is read in bands of consecutive rows; ``span`` is the number of rows of a band.

    Bands that were read for a sample of rows are kept in a temporary file, because all rows are read later.
    """

    _last: tuple[int, sparse.csr_matrix] | None = None
    _sampled = False

    @cached_property
    def _cache(self) -> RowCache:
        return RowCache(self.shape[1])

    def __getitem__(self, index: slice | Integers) -> sparse.csr_matrix:
        """Return the rows of a slice or of ascending row numbers, in arrays that the caller may change."""
        self._sampled = not isinstance(index, slice)
        try:
            return super().__getitem__(index)
        finally:
            self._sampled = False

    def stored_rows(self, start: int, stop: int) -> StoredRows:
        """Return the rows ``start`` to ``stop`` (excluded)."""
        parts = []
        for number in range(start // self.span, -(-stop // self.span) if stop > start else 0):
            if self._last is None or self._last[0] != number:
                self._last = number, self._kept_band(number)
            offset = number * self.span
            parts.append(self._last[1][max(0, start - offset) : stop - offset])
        return _stacked(parts, self.shape[1])

    def _kept_band(self, number: int) -> sparse.csr_matrix:
        """Return the rows of a band; keep the band in a temporary file if it was read for a sample of rows."""
        if self.by_columns:
            return self._band(number)  # already in a temporary file
        if (band := self._cache.get(number)) is None:
            band = self._band(number)
            if self._sampled:
                self._cache.add(number, band)
        return band

    @abstractmethod
    def _band(self, number: int) -> sparse.csr_matrix:
        """Return the rows of the band with this number."""


class StoredCSC(_Banded):
    """A CSC matrix of an open store; its values are sorted by rows in a temporary file when they are first read."""

    by_columns = True

    def __init__(self, stored: Any, name: object) -> None:
        super().__init__(name, stored.shape)
        self._group = stored.group
        self._bits = bucket_bits(self.shape[0], int(self._group["data"].shape[0]))
        self.span = 1 << self._bits

    def _band(self, number: int) -> sparse.csr_matrix:
        return self._buckets.read(number)

    @cached_property
    def _buckets(self) -> RowBuckets:
        check_numbers(self._group["data"].dtype, self.name)
        buckets = RowBuckets(self.shape, self._bits, self.name)
        starts = np.asarray(self._group["indptr"][:], dtype=np.int64)
        data, indices = (_Values(fast_array(self._group[part])) for part in PARTS[:2])
        n_values = int(starts[-1])
        with inner_bar(f"Sorting {self.name} by cells", self.shape[0]) as bar:
            for first in range(0, n_values, BLOCK_VALUES):
                last = min(first + BLOCK_VALUES, n_values)
                # The columns of the block; a column may start or end in another block.
                column, end = np.searchsorted(starts, first, side="right") - 1, np.searchsorted(starts, last)
                rows = indices.read(first, last)
                check_columns(rows, self.shape[0], self.name)
                parts = data.read(first, last), rows, np.clip(starts[column : end + 1], first, last) - first
                buckets.append(sparse.csc_matrix(parts, shape=(self.shape[0], end - column)), int(column))
                # Each block holds values of all cells, so the bar shows the share of the values that are sorted.
                bar.update(self.shape[0] * last // n_values - bar.n)
        return buckets


class StoredDense(_Banded):
    """A dense matrix of an open store, read in tiles that are aligned to its chunks.

    If a chunk holds many rows, the values are sorted by rows in a temporary file when they are first read.
    """

    def __init__(self, stored: Any, name: object) -> None:
        super().__init__(name, stored.shape)
        self._array, columns = fast_array(stored), self.shape[1]
        # Number of rows and columns of a tile.
        self._height, self._width = map(int, stored.chunks or (1, columns))
        row_bytes = max(1, columns * stored.dtype.itemsize)
        self.by_columns = self._height * row_bytes > BAND_BYTES
        chunk_bytes = self._height * self._width * stored.dtype.itemsize
        if isinstance(self._array, GzipArray) and chunk_bytes >= SEPARATE_CHUNK:
            pass  # each chunk is a tile, which avoids a copy
        elif self._height * row_bytes > TILE_BYTES:
            self._width *= max(1, TILE_BYTES // chunk_bytes)
        else:
            self._height, self._width = TILE_BYTES // (self._height * row_bytes) * self._height, columns
        self._kernel: Any = compiled("rows", self.shape[0])
        self._scratch: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]] | None = None
        self._bits = bucket_bits(self.shape[0], stored.size // TYPICAL_ZEROS)
        self.span = 1 << self._bits if self.by_columns else self._height if stored.chunks else 1

    def stored_rows(self, start: int, stop: int) -> StoredRows:
        """Return the rows ``start`` to ``stop`` (excluded)."""
        if self._array.chunks:
            return super().stored_rows(start, stop)
        check_numbers(self._array.dtype, self.name)
        parts = []
        for first in range(start, stop, self._height):
            parts.append(self._sparse([(0, self._array[first : min(first + self._height, stop)])]))
        return _stacked(parts, self.shape[1])

    def _band(self, number: int) -> sparse.csr_matrix:
        check_numbers(self._array.dtype, self.name)
        return self._buckets.read(number) if self.by_columns else self._sparse(self._tiles(number * self.span))

    def _tiles(self, row: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield the first column and the values of each tile whose first row is ``row``."""
        for column in range(0, self.shape[1], self._width):
            tile = np.asarray(self._array[row : row + self._height, column : column + self._width])
            yield column, tile.astype(tile.dtype.newbyteorder("="), copy=False)

    def _sparse(self, tiles: Iterable[tuple[int, npt.NDArray[Any]]]) -> sparse.csr_matrix:
        """Return the nonzero values of tiles of the same rows as one CSR matrix."""
        if self._kernel is None:
            return _joined((sparse_rows(tile) for _, tile in tiles), "csr")
        position, ends = 0, []
        for first, tile in tiles:
            if self._scratch is None:
                # The system provides memory only for the parts of these large arrays that are written to.
                size = max(self._height, len(tile)) * self.shape[1] + 1
                self._scratch = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int32)
            ends.append(np.empty(len(tile), dtype=np.int64))
            values = tile.astype(np.float32) if tile.dtype == np.float16 else tile
            values = np.ascontiguousarray(values)
            data, columns = self._scratch
            position = self._kernel.append_nonzeros(values, first, data, columns, position, ends[-1])
        parts = self._kernel.side_by_side(data, columns, np.stack(ends))
        return sparse.csr_matrix(parts, shape=(len(ends[0]), self.shape[1]))

    @cached_property
    def _buckets(self) -> RowBuckets:
        buckets = RowBuckets(self.shape, self._bits, self.name)
        for row in range(0, self.shape[0], self._height):
            tiles: list[sparse.csc_matrix] = []
            first = last = 0
            for _, values in self._tiles(row):
                tile = sparse_rows(values)
                tiles.append(tile.tocsc())
                last += tile.shape[1]
                if sum(part.nnz for part in tiles) >= BLOCK_VALUES or last == self.shape[1]:
                    block = _joined(tiles, "csc")
                    parts = block.data, block.indices + row, block.indptr
                    buckets.append(sparse.csc_matrix(parts, shape=(self.shape[0], last - first)), first)
                    tiles, first = [], last
        return buckets


def _stacked(parts: list[sparse.csr_matrix], n_columns: int) -> StoredRows:
    """Stack the rows of several CSR matrices with ``n_columns`` columns; the result is a copy."""
    rows = sparse.vstack([sparse.csr_matrix((0, n_columns), dtype=np.float32), *parts], format="csr")
    return StoredRows(rows.data, rows.indices, rows.indptr.astype(np.int64))


def _joined(tiles: Iterable[Any], form: str) -> Any:
    """Join sparse tiles of the same rows side by side; ``form`` is the sparse format of the result."""
    tiles = list(tiles)
    return tiles[0] if len(tiles) == 1 else sparse.hstack(tiles, format=form)


def sparse_rows(dense: npt.NDArray[Any]) -> sparse.csr_matrix:
    """Return a dense array, shape (n, G), as a float32 CSR matrix of its values that are not 0; NaN is kept."""
    n_rows, n_columns = dense.shape
    # Flat indices take half the time of indices by row and column.
    at = np.flatnonzero(dense != 0)
    starts = np.searchsorted(at, np.arange(n_rows + 1) * n_columns)
    with np.errstate(over="ignore"):
        data = dense.ravel()[at].astype(np.float32, copy=False)
    at -= np.repeat(np.arange(n_rows) * n_columns, np.diff(starts))
    return sparse.csr_matrix((data, at.astype(np.int32), starts.astype(np.int32)), shape=dense.shape)


class _Values:
    """A stored array of one dimension; consecutive reads decode each large chunk only once."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.chunk = max(1, int(array.chunks[0])) if array.chunks else 1
        self._keep = self.chunk * array.dtype.itemsize > LARGE_CHUNK
        self._start, self._window = 0, np.empty(0, dtype=array.dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values ``start`` to ``stop`` (excluded), in the byte order of the machine."""
        if not self._keep:
            return self._native(self._array[start:stop])
        end = self._start + len(self._window)
        if not self._start <= start <= stop <= end:
            first, last = start // self.chunk * self.chunk, -(-stop // self.chunk) * self.chunk
            kept = self._window[first - self._start :] if self._start <= first < end else self._window[:0]
            self._window = np.concatenate([kept, self._native(self._array[first + len(kept) : last])])
            self._start = first
        return self._window[start - self._start : stop - self._start].copy()

    @staticmethod
    def _native(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.astype(values.dtype.newbyteorder("="), copy=False)

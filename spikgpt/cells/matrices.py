"""Matrices of cells and genes, in memory and on disk, checked before compiled code gets to see them.

SciPy's kernels take the structure of a sparse matrix for granted: a wrong row start or column ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset
from scipy import sparse

from spikgpt.cells.storage import REMEDY, is_array, missing_chunks, refusing
from spikgpt.errors import DataError
from spikgpt.types import Rows

# Bytes of a dense matrix, and values of a sparse one, read at a time.
BLOCK_BYTES, BLOCK_VALUES = 32 * 1024 * 1024, 4 * 1024 * 1024


def check_sparse(matrix: Any, name: object) -> None:
    """Refuse a sparse matrix in memory that leads beyond its shape or its values; anything else passes."""
    if not sparse.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    rows, columns = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    _check_starts(matrix.indptr, rows, min(len(matrix.data), len(matrix.indices)), name, spare=True)
    _check_places(matrix.indices[: matrix.indptr[-1]], columns, name)


def read_rows(matrix: Any, index: slice | Rows, columns: Rows | None = None) -> sparse.csr_matrix:
    """Return some rows in memory, float32, canonical, sharing nothing with ``matrix``; by default of all columns."""
    name = getattr(matrix, "name", "The expression matrix")
    with refusing(name):
        part = matrix[index]
        # Dask computes the chunks with these rows, dense or sparse.
        part = part.compute() if hasattr(part, "compute") else part
        part = part if sparse.issparse(part) else np.asarray(part)
    _check_numbers(part.dtype, name)
    check_sparse(part, name)
    with np.errstate(over="ignore"):
        if not sparse.issparse(part):
            part = part.astype(np.float32)
        rows = sparse.csr_matrix(part).astype(np.float32, copy=True)
    if columns is not None:
        rows = rows[:, columns]
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


class SparseOnDisk:
    """A sparse matrix of an h5ad file or a zarr folder, of which rows are read when they are asked for.

    One whose parts do not fit together is refused.
    """

    def __init__(self, group: Any, name: object) -> None:
        self.name, self._group = name, group
        with refusing(name):
            stored = sparse_dataset(group)
            self.stored, self.format, self.dtype, self.shape = stored, stored.format, stored.dtype, stored.shape
            _check_shape(self.shape, name)
            starts, parts = group["indptr"][:], [group["data"], group["indices"]]
            lengths, kind = {part.shape for part in parts}, parts[1].dtype.kind
            if len(lengths) > 1 or kind not in "iu" or any(map(missing_chunks, parts)):
                lost = sum(map(missing_chunks, parts))
                found = (
                    f"data and indices of lengths {sorted(lengths)}, {lost} chunks missing, indices of kind {kind!r}"
                )
                msg = f"{name} has {found}; expected one length, no chunk missing, whole numbers. {REMEDY}"
                raise DataError(msg)
            _check_starts(starts, self.shape[self.format == "csc"], parts[0].shape[0], name)

    def __getitem__(self, index: slice | Rows) -> sparse.csr_matrix:
        """Return some rows, by a slice or by ascending numbers."""
        whole = self.format == "csc" or not self._native
        return self._by_rows[index] if whole else self.stored[index]

    def in_memory(self) -> Any:
        """Return the whole matrix, checked."""
        if self._native:
            matrix = self.stored.to_memory()
        else:
            parts = (self._group[part][:] for part in ("data", "indices", "indptr"))
            native = tuple(part.astype(part.dtype.newbyteorder("=")) for part in parts)
            matrix = (sparse.csr_matrix if self.format == "csr" else sparse.csc_matrix)(native, shape=self.shape)
        check_sparse(matrix, self.name)
        return matrix

    @cached_property
    def _native(self) -> bool:
        """Whether SciPy can hold the values in their byte order."""
        return all(self._group[part].dtype.isnative for part in ("data", "indices", "indptr"))

    @cached_property
    def _by_rows(self) -> sparse.csr_matrix:
        """The whole matrix by rows, as those of a CSC matrix cannot be read one by one."""
        return self.in_memory().tocsr()

    def check(self) -> None:
        """Read everything once, a part at a time, and refuse what leads beyond the shape."""
        _check_numbers(self.dtype, self.name, complex_too=True)
        columns = self.shape[self.format == "csr"]
        with refusing(self.name):
            for start in range(0, self._group["data"].shape[0], BLOCK_VALUES):
                part = slice(start, start + BLOCK_VALUES)
                _check_places(self._group["indices"][part], columns, self.name)
                self._group["data"][part]


class DenseOnDisk:
    """A dense matrix of an h5ad file or a zarr folder, of which rows are read when they are asked for."""

    def __init__(self, array: Any, name: object) -> None:
        self.name, self._array, self.dtype, self.shape = name, array, array.dtype, tuple(array.shape)
        _check_shape(self.shape, name)

    def __getitem__(self, index: slice | Rows) -> sparse.csr_matrix:
        """Return some rows, float32, by a slice or by ascending numbers; never much dense at a time."""
        _check_numbers(self.dtype, self.name)
        cells = np.arange(self.shape[0])[index]
        # zarr has rows by number apart.
        numbered = getattr(self._array, "oindex", self._array)
        parts = [sparse.csr_matrix((0, self.shape[1]), dtype=np.float32)]
        for part in self._blocks(len(cells)):
            some = cells[part]
            together = len(some) == some[-1] - some[0] + 1
            rows = self._array[some[0] : some[-1] + 1] if together else numbered[some]
            with np.errstate(over="ignore"):
                parts.append(sparse.csr_matrix(rows.astype(np.float32)))
        return sparse.vstack(parts, format="csr")

    def check(self) -> None:
        """Read everything once, a part at a time."""
        with refusing(self.name):
            for part in self._blocks(self.shape[0]):
                self._array[part]

    def _blocks(self, rows: int) -> Iterator[slice]:
        step = max(1, BLOCK_BYTES // max(1, self.dtype.itemsize * self.shape[1]))
        yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def on_disk(item: Any, name: object) -> SparseOnDisk | DenseOnDisk:
    """Return a matrix that is left where it is, its structure checked."""
    return DenseOnDisk(item, name) if is_array(item) else SparseOnDisk(item, name)


def left_on_disk(matrix: Any, name: object) -> Any:
    """Return a matrix of an AnnData as it is, unless that leaves it on disk, as backed mode does."""
    if isinstance(matrix, CSRDataset | CSCDataset):
        return SparseOnDisk(matrix.group, name)
    return DenseOnDisk(matrix, name) if is_array(matrix) else matrix


def _check_shape(found: tuple[int, ...], name: object) -> None:
    if len(found) != 2 or min(found) < 0:
        msg = f"{name} has the shape {found}; expected two dimensions. {REMEDY}"
        raise DataError(msg)


def _check_numbers(dtype: Any, name: object, *, complex_too: bool = False) -> None:
    if dtype.kind not in ("biufc" if complex_too else "biuf"):
        what = "text" if dtype.kind in "OSTU" else f"{dtype} values"
        msg = f"{name} holds {what}; expected numbers, such as those of adata.X.astype('float32')."
        raise DataError(msg)


def _check_starts(starts: npt.NDArray[Any], rows: int, values: int, name: object, *, spare: bool = False) -> None:
    """Refuse row starts that lead elsewhere; with ``spare``, the last values may belong to no row."""
    numbers = starts.astype(np.int64) if starts.dtype.kind in "iu" else np.empty(0, dtype=np.int64)
    if numbers.shape != (rows + 1,):
        found = f"{starts.shape} row starts of type {starts.dtype} for {rows} rows"
    elif numbers[0] != 0 or numbers[-1] > values or (numbers[-1] < values and not spare):
        found = f"row starts from {numbers[0]} to {numbers[-1]} for {values} values"
    elif (np.diff(numbers) < 0).any():
        found = "row starts out of order"
    else:
        return
    msg = f"{name} has {found}; expected one more than rows, rising from 0 to the number of values. {REMEDY}"
    raise DataError(msg)


def _check_places(places: npt.NDArray[Any], columns: int, name: object) -> None:
    if len(places) and not 0 <= places.min() <= places.max() < columns:
        found = f"{places.min()} to {places.max()}"
        msg = f"{name} holds values in columns {found}; it has columns 0 to {columns - 1}. {REMEDY}"
        raise DataError(msg)

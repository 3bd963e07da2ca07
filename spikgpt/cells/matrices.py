"""Rows of matrices of cells and genes, in memory and on disk.

SciPy's compiled code trusts the structure of a sparse matrix: a wrong row start or column can crash the process. Each
matrix is therefore checked before SciPy works on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset
from scipy import sparse

from spikgpt.cells.storage import REMEDY, as_data_errors, is_array, missing_chunks
from spikgpt.errors import DataError, with_noun
from spikgpt.types import Integers, Rows

# Number of values of a sparse matrix that are read from disk at a time.
BLOCK_VALUES = 4 * 1024 * 1024
# Number of rows in a sample, and number of blocks of consecutive rows in the sample. Any stretch of 2% of the rows
# overlaps a block.
SAMPLED, SAMPLED_BLOCKS = 1000, 50
# Names of the arrays of a stored sparse matrix.
PARTS = ("data", "indices", "indptr")


class StoredRows(NamedTuple):
    """The three arrays of n rows of a CSR matrix, as they are stored.

    ``data`` is of any real type, ``indices`` of any integer type, and ``indptr``, int64, shape (n + 1,), starts at 0.
    Within a row, columns may be in any order and may repeat, and values may be 0.
    """

    data: npt.NDArray[Any]
    indices: npt.NDArray[Any]
    indptr: npt.NDArray[np.int64]


def check_sparse(matrix: Any, name: object) -> None:
    """Raise DataError if row starts or column indices of a CSR or CSC matrix in memory are out of range."""
    if not sparse.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    n_rows, n_columns = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    # Values after the last row start are unused.
    _check_starts(matrix.indptr, n_rows, min(len(matrix.data), len(matrix.indices)), name)
    check_columns(matrix.indices[: matrix.indptr[-1]], n_columns, name)


def check_columns(columns: npt.NDArray[Any], n_columns: int, name: object) -> None:
    """Raise DataError if a column number is outside of the matrix."""
    if len(columns) and not 0 <= columns.min() <= columns.max() < n_columns:
        values = f"values in columns {columns.min()} to {columns.max()}"
        msg = f"{name} holds {values}; it has columns 0 to {n_columns - 1}. {REMEDY}"
        raise DataError(msg)


def stored_matrix(item: Any, name: object) -> Any:
    """Return a stored matrix as an array or as anndata's sparse dataset; its values stay on disk.

    The shape is checked. For a sparse matrix, the row starts and the lengths of its arrays are checked too.
    """
    with as_data_errors(name, remedy=REMEDY):
        stored = item if is_array(item) else sparse_dataset(item)
        shape = tuple(map(int, stored.shape))
        if len(shape) != 2 or min(shape) < 0:
            msg = f"{name} has the shape {shape}; expected two dimensions. {REMEDY}"
            raise DataError(msg)
        if not is_array(item):
            _check_parts(item, shape[stored.format == "csc"], name)
    return stored


def check_stored(item: Any, name: object) -> None:
    """Read a stored sparse matrix in blocks, and raise DataError if a value lies outside of its shape."""
    stored = stored_matrix(item, name)
    n_columns = stored.shape[stored.format == "csr"]
    with as_data_errors(name):
        for start in range(0, item["data"].shape[0], BLOCK_VALUES):
            block = slice(start, start + BLOCK_VALUES)
            check_columns(item["indices"][block], n_columns, name)
            item["data"][block]


def sampled_rows(n_rows: int) -> Rows:
    """Return ascending indices of at most 1000 rows, in evenly spaced blocks because single rows are read slowly."""
    if n_rows <= SAMPLED:
        return np.arange(n_rows)
    size = SAMPLED // SAMPLED_BLOCKS
    firsts = np.linspace(0, n_rows - size, SAMPLED_BLOCKS).astype(np.int64)
    return np.unique(firsts[:, None] + np.arange(size))


def read_rows(matrix: Any, index: slice | Integers, columns: Rows | None = None) -> sparse.csr_matrix:
    """Return a copy of some rows as CSR, float32, with sorted columns and without zeros; by default of all columns."""
    name = getattr(matrix, "name", "The expression matrix")
    with as_data_errors(name):
        part = matrix[index]
        # A Dask array computes only the chunks with these rows.
        part = part.compute() if hasattr(part, "compute") else part
        part = part if sparse.issparse(part) else np.asarray(part)
    check_numbers(part.dtype, name)
    check_sparse(part, name)
    with np.errstate(over="ignore"):
        if not sparse.issparse(part):
            part = part.astype(np.float32)
        rows = sparse.csr_matrix(part).astype(np.float32, copy=not isinstance(matrix, MatrixOnDisk))
    if columns is not None:
        rows = rows[:, columns]
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def stored_rows(matrix: Any, start: int, stop: int) -> StoredRows:
    """Return the rows ``start`` to ``stop`` (excluded) of a matrix as they are stored.

    Arrays of a CSR matrix in memory are not copied. Types and columns are checked, but values may be negative or
    infinite. See :func:`read_rows` for rows with sorted columns and without zeros.

    Raises
    ------
    DataError
        When values are not numbers, or when a column is outside of the matrix.
    """
    name = getattr(matrix, "name", "The expression matrix")
    if isinstance(matrix, MatrixOnDisk):
        with as_data_errors(name):
            rows = matrix.stored_rows(start, stop)
    elif sparse.issparse(matrix) and matrix.format == "csr":
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        starts = matrix.indptr[start : stop + 1].astype(np.int64) - first
        rows = StoredRows(matrix.data[first:last], matrix.indices[first:last], starts)
    else:
        canonical = read_rows(matrix, slice(start, stop))
        return StoredRows(canonical.data, canonical.indices, canonical.indptr.astype(np.int64))
    check_numbers(rows.data.dtype, name)
    check_columns(rows.indices, matrix.shape[1], name)
    return rows


class MatrixOnDisk(ABC):
    """A matrix of an open store, whose rows are read on demand.

    Attributes
    ----------
    name
        Name of the matrix in messages.
    shape
        Rows and columns.
    by_columns
        True if the first rows take as long to read as all rows.
    span
        Number of consecutive rows, counted from a multiple of ``span``, that take about as long to read as one row.
    """

    by_columns = False
    span = 1

    def __init__(self, name: object, shape: Any) -> None:
        self.name, self.shape = name, (int(shape[0]), int(shape[1]))

    @abstractmethod
    def stored_rows(self, start: int, stop: int) -> StoredRows:
        """Return the rows ``start`` to ``stop`` (excluded), in arrays that the caller may change."""

    def __getitem__(self, index: slice | Integers) -> sparse.csr_matrix:
        """Return the rows of a slice or of ascending row numbers, in arrays that the caller may change."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(self.shape[0])
            return self._rows(start, max(start, stop))
        spans = index // self.span
        ends = np.flatnonzero((np.diff(spans) != 0) & (np.diff(index) != 1)) + 1
        parts = []
        for rows in np.split(index, ends):
            part = self._rows(int(rows[0]), int(rows[-1]) + 1)
            parts.append(part if part.shape[0] == len(rows) else part[rows - rows[0]])
        return sparse.vstack(parts, format="csr")

    def _rows(self, start: int, stop: int) -> sparse.csr_matrix:
        return sparse.csr_matrix(tuple(self.stored_rows(start, stop)), shape=(stop - start, self.shape[1]))


def read_matrix(stored: CSRDataset | CSCDataset, name: object) -> sparse.csr_matrix | sparse.csc_matrix:
    """Read a stored sparse matrix into memory, in the byte order of the machine, and check its structure."""
    parts = [stored.group[part][:] for part in PARTS]
    native = tuple(part.astype(part.dtype.newbyteorder("="), copy=False) for part in parts)
    matrix = (sparse.csr_matrix if stored.format == "csr" else sparse.csc_matrix)(native, shape=stored.shape)
    check_sparse(matrix, name)
    return matrix


def check_numbers(dtype: Any, name: object) -> None:
    """Raise DataError unless ``dtype`` is a type of real numbers."""
    if dtype.kind not in "biuf":
        content = "text" if dtype.kind in "OSTU" else f"{dtype} values"
        msg = f"{name} holds {content}; expected numbers, such as those of adata.X.astype('float32')."
        raise DataError(msg)


def _check_parts(group: Any, n_rows: int, name: object) -> None:
    """Raise DataError if a stored sparse matrix has missing chunks, or arrays whose lengths do not match."""
    data, indices, starts = group["data"], group["indices"], group["indptr"][:]
    if lost := missing_chunks(data) + missing_chunks(indices):
        problem = f"{lost} chunks missing"
    elif data.shape != indices.shape or indices.dtype.kind not in "iu":
        problem = f"data of shape {data.shape} and indices of shape {indices.shape} and type {indices.dtype}"
    else:
        _check_starts(starts, n_rows, data.shape[0], name)
        if starts[-1] == data.shape[0]:
            return
        problem = f"row starts from {starts[0]} to {starts[-1]} for {with_noun(data.shape[0], 'value')}"
    msg = f"{name} has {problem}; expected data and indices of one length, and row starts up to this length. {REMEDY}"
    raise DataError(msg)


def _check_starts(starts: npt.NDArray[Any], n_rows: int, n_values: int, name: object) -> None:
    """Raise DataError unless row starts ascend from 0 to at most the number of values."""
    if starts.shape == (n_rows + 1,) and starts.dtype.kind in "iu":
        rising = starts[0] == 0 and (np.diff(starts.astype(np.int64)) >= 0).all()
        if rising and starts[-1] <= n_values:
            return
        problem = (
            f"row starts from {starts[0]} to {starts[-1]} for {with_noun(n_values, 'value')}"
            + ", out of order" * (not rising)
        )
    else:
        problem = f"row starts of shape {starts.shape} and type {starts.dtype} for {with_noun(n_rows, 'row')}"
    msg = f"{name} has {problem}; expected one more than rows, rising from 0 to the number of values. {REMEDY}"
    raise DataError(msg)

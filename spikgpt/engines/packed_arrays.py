"""Compress arrays without loss, for the file of a query model.

Bytes of equal significance are stored side by side. The log expression of a cell is stored as whole multiples of one
factor.
"""

from __future__ import annotations

import bz2
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

# Names of the arrays of a split matrix: number of levels of each row, index of the level of each value, difference of
# the column of each value from the previous column, and number of values of each row.
OF_ROW, CODES, STEPS, STARTS = "levels_of_row", "codes", "steps", "starts"
# Names of the arrays of the levels: smallest level of each row, and whole multiple and rounding error of each level.
SMALLEST, MULTIPLES, ERRORS = "smallest", "multiples", "errors"


class Layout(msgspec.Struct, frozen=True):
    """Type and shape that an array had before packing."""

    dtype: str
    shape: tuple[int, ...]


def pack(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], Layout]:
    """Return the compressed bytes of an array, and its layout; integers are stored in the smallest sufficient type."""
    layout = Layout(array.dtype.str, array.shape)
    if array.dtype.kind in "iu" and array.size:
        array = array.astype(np.promote_types(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
    content = np.ascontiguousarray(array)
    planes = content.reshape(-1).view(np.uint8).reshape(-1, content.itemsize).T  # (itemsize, size)
    header = content.dtype.str.encode().ljust(4)
    return np.frombuffer(header + bz2.compress(planes.tobytes()), dtype=np.uint8), layout


def unpack(packed: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[Any]:
    """Return the original array from the results of :func:`pack`."""
    content = packed.tobytes()
    stored = np.dtype(content[:4].decode().strip())
    planes = np.frombuffer(bz2.decompress(content[4:]), dtype=np.uint8).reshape(stored.itemsize, -1)
    flat = np.ascontiguousarray(planes.T).view(stored)  # (size, 1)
    return flat.reshape(layout.shape).astype(layout.dtype)


def split_rows(matrix: sparse.csr_matrix) -> dict[str, npt.NDArray[Any]]:
    """Split a sparse matrix with few distinct values in each row, such as logs of counts, into arrays of small numbers.

    The levels of a row are its distinct values. The arrays hold the levels (see :func:`_split_levels`) and the number
    of levels of each row. For each stored value, the arrays hold the index of its level, and the difference of its
    column from the previous column of the row.
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.data, rows))
    ordered, of_rows = matrix.data[order], rows[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (of_rows[1:] != of_rows[:-1])
    of_row = np.bincount(of_rows[new], minlength=matrix.shape[0])
    first_level = np.cumsum(of_row) - of_row
    codes = np.empty(len(order), dtype=np.int64)
    codes[order] = np.cumsum(new) - 1 - first_level[of_rows]
    steps = np.diff(matrix.indices.astype(np.int64), prepend=0)
    firsts = matrix.indptr[:-1][np.diff(matrix.indptr) > 0]
    steps[firsts] = matrix.indices[firsts]  # the first value of a row has no previous column
    return {
        **_split_levels(ordered[new], of_row),
        OF_ROW: of_row,
        CODES: codes,
        STEPS: steps,
        STARTS: np.diff(matrix.indptr),
    }


def joined_rows(parts: Mapping[str, npt.NDArray[Any]], n_columns: int) -> sparse.csr_matrix:
    """Return the sparse matrix from its arrays: the inverse of :func:`split_rows`."""
    counts = parts[STARTS]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    first_level = np.cumsum(parts[OF_ROW]) - parts[OF_ROW]
    data = _joined_levels(parts)[parts[CODES] + np.repeat(first_level, counts)]
    totals = np.cumsum(parts[STEPS])
    before = np.concatenate([[0], totals])[indptr[:-1]]
    indices = (totals - np.repeat(before, counts)).astype(np.int32)
    return sparse.csr_matrix((data, indices, indptr), (len(counts), n_columns))


def _split_levels(levels: npt.NDArray[Any], of_row: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the levels of all rows as arrays of small numbers; the levels of a row ascend.

    A level is log(1 + c * f) for a count c and a factor f of its cell. If the smallest count of a cell is 1, the
    smallest level gives f, and exp(level) - 1 is a whole multiple of f up to rounding. The rounding error is stored as
    the difference of the bit patterns, so all values are restored exactly.
    """
    starts = (np.cumsum(of_row) - of_row)[of_row > 0]
    smallest = levels[starts]
    factors = np.repeat(_factors(smallest), of_row[of_row > 0])
    with np.errstate(over="ignore", invalid="ignore"):
        multiples = np.rint(np.expm1(levels.astype(np.float64)) / factors)
    # Counts are below 2**31. Values that are not logs of counts get the multiple 0.
    multiples = np.where((multiples > 0) & (multiples < 2**31), multiples, 0).astype(np.int64)
    errors = _bits(levels) - _bits(_logs(multiples, factors, levels.dtype))
    return {SMALLEST: smallest, MULTIPLES: multiples, ERRORS: errors}


def _joined_levels(parts: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the levels of all rows: the inverse of :func:`_split_levels`.

    ``parts`` also holds the number of levels of each row.
    """
    smallest, of_row = parts[SMALLEST], parts[OF_ROW]
    factors = np.repeat(_factors(smallest), of_row[of_row > 0])
    bits = _bits(_logs(parts[MULTIPLES], factors, smallest.dtype)) + parts[ERRORS]
    levels: npt.NDArray[Any] = bits.astype(f"i{smallest.itemsize}").view(smallest.dtype)
    return levels


def _factors(smallest: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the factor f of each row from its smallest level; 1 if the level gives no positive, finite factor."""
    with np.errstate(over="ignore"):
        factors = np.expm1(smallest.astype(np.float64))
    return np.where((factors > 0) & np.isfinite(factors), factors, 1.0)


def _logs(multiples: npt.NDArray[Any], factors: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.log1p(multiples * factors).astype(dtype)


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the bit patterns of floats as integers."""
    return np.ascontiguousarray(values).view(f"i{values.itemsize}").astype(np.int64)

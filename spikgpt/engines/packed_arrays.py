"""Compress arrays without loss: bytes of equal significance side by side, and the logs of a cell as few numbers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

# Parts of a packed sparse matrix.
LEVELS, OF_ROW, CODES, STEPS, STARTS = "levels", "levels_of_row", "codes", "steps", "starts"


class Layout(msgspec.Struct, frozen=True):
    """Type and shape of a packed array."""

    dtype: str
    shape: tuple[int, ...]


def pack(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], Layout]:
    """Return the compressed bytes of an array, and its layout; whole numbers take the fewest bytes that hold them."""
    layout = Layout(array.dtype.str, array.shape)
    if array.dtype.kind in "iu" and array.size:
        array = array.astype(np.promote_types(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
    content = np.ascontiguousarray(array)
    planes = content.reshape(-1).view(np.uint8).reshape(-1, content.itemsize).T  # (itemsize, size)
    header = content.dtype.str.encode().ljust(4)
    return np.frombuffer(header + zlib.compress(planes.tobytes(), 6), dtype=np.uint8), layout


def unpack(packed: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[Any]:
    """Return the original array from the results of :func:`pack`."""
    content = packed.tobytes()
    stored = np.dtype(content[:4].decode().strip())
    planes = np.frombuffer(zlib.decompress(content[4:]), dtype=np.uint8).reshape(stored.itemsize, -1)
    flat = np.ascontiguousarray(planes.T).view(stored)  # (size, 1)
    return flat.reshape(layout.shape).astype(layout.dtype)


def split_rows(matrix: sparse.csr_matrix) -> dict[str, npt.NDArray[Any]]:
    """Return a sparse matrix whose rows hold few different values, as logs of counts do, as arrays of small numbers.

    These are the levels, the different values of each row, the number of levels of each row, the index of the level of
    each stored value, and the step from its column to the one before in its row.
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
    steps[firsts] = matrix.indices[firsts]  # the first value of a row has none before it
    return {
        LEVELS: ordered[new],
        OF_ROW: of_row,
        CODES: codes,
        STEPS: steps,
        STARTS: np.diff(matrix.indptr),
    }


def joined_rows(parts: Mapping[str, npt.NDArray[Any]], n_columns: int) -> sparse.csr_matrix:
    """Return the sparse matrix of :func:`split_rows`."""
    counts = parts[STARTS]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    first_level = np.cumsum(parts[OF_ROW]) - parts[OF_ROW]
    data = parts[LEVELS][parts[CODES] + np.repeat(first_level, counts)]
    totals = np.cumsum(parts[STEPS])
    before = np.concatenate([[0], totals])[indptr[:-1]]
    indices = (totals - np.repeat(before, counts)).astype(np.int32)
    return sparse.csr_matrix((data, indices, indptr), (len(counts), n_columns))

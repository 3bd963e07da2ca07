"""Compiled functions read the same rows of dense and of column-compressed matrices as NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from spikgpt import kernels
from spikgpt.cells.on_disk import sparse_rows
from spikgpt.cells.row_buckets import RowBuckets

rows = pytest.importorskip("spikgpt.kernels.rows")
SPECIAL = np.array([0, 1, 300, 2.0**30, -1, 0.25, 1e-50, np.nan, np.inf, -np.inf, -0.0])


def matrix_of(dtype: Any, shape: tuple[int, int] = (40, 33)) -> npt.NDArray[Any]:
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        with np.errstate(over="ignore"):
            return np.where(random.random(shape) < 0.4, random.choice(SPECIAL, shape), 0).astype(dtype)
    return (random.integers(0, 3, shape) * random.integers(0, 2, shape)).astype(dtype)


def assert_equal(actual: sparse.csr_matrix, expected: sparse.csr_matrix) -> None:
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", bool])
@pytest.mark.parametrize("width", [1, 8, 33])
def test_values_of_tiles_equal_those_of_numpy(dtype: Any, width: int) -> None:
    with np.errstate(invalid="ignore"):
        dense = matrix_of(dtype)
    data, columns = np.empty(dense.size + 1, dtype=np.float32), np.empty(dense.size + 1, dtype=np.int32)
    position, ends = 0, []
    for first in range(0, dense.shape[1], width):
        ends.append(np.empty(len(dense), dtype=np.int64))
        tile = np.ascontiguousarray(dense[:, first : first + width])
        position = rows.append_nonzeros(tile, first, data, columns, position, ends[-1])
    parts = rows.side_by_side(data, columns, np.stack(ends))
    assert_equal(sparse.csr_matrix(parts, shape=dense.shape), sparse_rows(dense))


@pytest.mark.parametrize("bits", [0, 3, 8])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1"])
def test_buckets_equal_those_of_scipy(dtype: Any, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sparse.csc_matrix(matrix_of(dtype))
    results = []
    for least in (0, 10**9):
        monkeypatch.setattr(kernels, "LEAST_CELLS", least)
        buckets = RowBuckets(matrix.shape, bits, "X")
        for first in range(0, matrix.shape[1], 10):
            buckets.append(matrix[:, first : first + 10], first)
        results.append([buckets.read(number) for number in range(-(-matrix.shape[0] // (1 << bits)))])
    for compiled, plain in zip(*results, strict=True):
        assert_equal(compiled, plain)


def test_repeated_values_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LEAST_CELLS", 0)
    twice = sparse.csc_matrix((np.ones(4), [3, 3, 1, 3], [0, 2, 4]), shape=(5, 2))
    buckets = RowBuckets(twice.shape, 3, "X")
    buckets.append(twice, 0)
    assert buckets.read(0).toarray().tolist() == twice.toarray().tolist()


@pytest.mark.parametrize(
    ("value", "small"), [(0, True), (7, True), (8, False), (-1, False), (0.5, False), (np.nan, False)]
)
def test_small_whole_values_are_recognised(value: float, small: bool) -> None:
    values = np.array([1, 2, value, 3], dtype=np.float32)
    assert rows.small_whole(values, 8) is small

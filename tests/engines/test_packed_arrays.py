"""Packed arrays unpack to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from spikgpt.engines.packed_arrays import joined_rows, pack, split_rows, unpack

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "array",
    [
        RANDOM.normal(size=(7, 3)),
        RANDOM.normal(size=5).astype(np.float32),
        np.array([np.nan, -0.0, np.inf]),
        np.array([-1, 300]),
        np.arange(70_000),
        np.array([2**40, -(2**40)]),
        np.array([[True, False]]),
        np.zeros((0, 14), dtype=np.int64),
        np.zeros((3, 0)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_survive_packing(array: npt.NDArray[Any]) -> None:
    packed, layout = pack(array)
    unpacked = unpack(packed, layout)
    assert (unpacked.dtype, unpacked.shape) == (array.dtype, array.shape)
    assert unpacked.tobytes() == array.tobytes()


def test_whole_numbers_take_few_bytes() -> None:
    assert len(pack(np.arange(10_000) % 200)[0]) < 1000


@pytest.mark.parametrize("shape", [(20, 30), (5, 70_000), (0, 4), (3, 0)])
def test_rows_survive_splitting(shape: tuple[int, int]) -> None:
    matrix = sparse.random(*shape, 0.2 if shape[1] < 100 else 0.001, format="csr", dtype=np.float32, random_state=0)
    matrix = sparse.csr_matrix(np.log1p(np.ceil(matrix.toarray() * 4)).astype(np.float32))
    matrix.sort_indices()
    unpacked = joined_rows(split_rows(matrix), shape[1])
    assert unpacked.shape == matrix.shape
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(unpacked, name), getattr(matrix, name))
        assert getattr(unpacked, name).dtype == getattr(matrix, name).dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_any_values_survive_splitting(dtype: npt.DTypeLike) -> None:
    values = np.array([2.0, -3.5, 1e-40, np.inf, 1e30, 700.0, 5e-324, 0.25], dtype=dtype)
    matrix = sparse.csr_matrix((values, [0, 1, 2, 0, 3, 1, 2, 3], [0, 3, 3, 5, 8]), (4, 4))
    unpacked = joined_rows(split_rows(matrix), 4)
    assert unpacked.data.tobytes() == values.tobytes()


def test_logs_of_counts_take_few_bytes() -> None:
    counts = RANDOM.poisson(0.5, (200, 300)).astype(np.float64)
    logs = sparse.csr_matrix(np.log1p(counts * 1e4 / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    parts = split_rows(logs)
    assert set(np.unique(parts["multiples"])) <= set(range(1, 9))
    assert np.abs(parts["errors"]).max() < 8  # units in the last place

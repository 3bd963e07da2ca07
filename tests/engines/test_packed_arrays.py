"""Packed arrays come back bit by bit."""

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
def test_arrays_come_back(array: npt.NDArray[Any]) -> None:
    packed, layout = pack(array)
    found = unpack(packed, layout)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_whole_numbers_take_few_bytes() -> None:
    assert len(pack(np.arange(10_000) % 200)[0]) < 500


@pytest.mark.parametrize("shape", [(20, 30), (5, 70_000), (0, 4), (3, 0)])
def test_rows_come_back(shape: tuple[int, int]) -> None:
    matrix = sparse.random(*shape, 0.2 if shape[1] < 100 else 0.001, format="csr", dtype=np.float32, random_state=0)
    matrix = sparse.csr_matrix(np.log1p(np.ceil(matrix.toarray() * 4)).astype(np.float32))
    matrix.sort_indices()
    found = joined_rows(split_rows(matrix), shape[1])
    assert found.shape == matrix.shape
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(matrix, name))
        assert getattr(found, name).dtype == getattr(matrix, name).dtype

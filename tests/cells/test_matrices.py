"""Matrices on disk give the rows of the matrix in memory, and damaged matrices are refused before use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from anndata.io import write_elem
from scipy import sparse

from spikgpt.cells.matrices import check_sparse, read_rows, sampled_rows, stored_matrix, stored_rows
from spikgpt.cells.on_disk import keep_on_disk
from spikgpt.errors import DataError

MATRIX = sparse.random(40, 30, density=0.2, format="csr", dtype=np.float32, random_state=0)


@pytest.mark.parametrize("stored", [MATRIX, MATRIX.tocsc(), MATRIX.toarray()], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("rows", [slice(0, 40), slice(7, 9), slice(5, 5), np.array([0, 3, 39])], ids=str)
def test_rows_on_disk_equal_those_in_memory(stored: Any, rows: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", stored)
        matrix = keep_on_disk(stored_matrix(file["X"], "X"), "X")
        assert matrix.shape == (40, 30)
        np.testing.assert_array_equal(read_rows(matrix, rows).toarray(), MATRIX[rows].toarray())
        np.testing.assert_array_equal(read_rows(stored, rows).toarray(), MATRIX[rows].toarray())


@pytest.mark.parametrize("stored", [MATRIX, MATRIX.tocsc(), MATRIX.toarray()], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize(("start", "stop"), [(0, 40), (7, 9), (5, 5)])
def test_stored_rows_equal_those_of_the_matrix(stored: Any, start: int, stop: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", stored)
        for matrix in (stored, keep_on_disk(stored_matrix(file["X"], "X"), "X")):
            rows = stored_rows(matrix, start, stop)
            assert rows.indptr.dtype == np.int64
            again = sparse.csr_matrix(tuple(rows), shape=(stop - start, 30))
            np.testing.assert_array_equal(again.toarray(), MATRIX[start:stop].toarray())


def test_stored_rows_in_memory_are_not_copied_and_keep_their_type() -> None:
    matrix = MATRIX.copy()
    matrix.data = (10 * matrix.data).astype(np.uint16)
    rows = stored_rows(matrix, 3, 9)
    assert rows.data.dtype == np.uint16
    assert np.shares_memory(rows.data, matrix.data)
    assert np.shares_memory(rows.indices, matrix.indices)


def test_stored_rows_with_columns_outside_of_the_matrix_are_refused() -> None:
    with pytest.raises(DataError, match="columns"):
        stored_rows(damaged("indices", 3, 30), 0, 40)


class Chunked:
    """Stand-in for a dask matrix, whose rows are computed on request."""

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.shape = matrix, matrix.shape

    def __getitem__(self, index: Any) -> Chunked:
        return Chunked(self.matrix[index])

    def compute(self) -> Any:
        return self.matrix


@pytest.mark.parametrize("stored", [MATRIX, MATRIX.toarray()], ids=["sparse", "dense"])
def test_rows_of_a_lazy_matrix_are_computed(stored: Any) -> None:
    np.testing.assert_array_equal(read_rows(Chunked(stored), slice(3, 9)).toarray(), MATRIX[3:9].toarray())


def damaged(name: str, index: int, value: int) -> sparse.csr_matrix:
    """Return ``MATRIX`` with one entry of ``indptr`` or ``indices`` changed; scipy does not check these arrays."""
    matrix = MATRIX.copy()
    getattr(matrix, name)[index] = value
    return matrix


DAMAGED = {
    "starts that do not begin at 0": damaged("indptr", 0, 1),
    "starts that fall": damaged("indptr", 5, 10_000),
    "starts beyond the values": damaged("indptr", -1, 10_000),
    "a gene beyond the last": damaged("indices", 3, 30),
    "a gene before the first": damaged("indices", 3, -1),
}


@pytest.mark.parametrize("matrix", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_structure_is_refused_in_memory_and_on_disk(matrix: sparse.csr_matrix, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^layers\['a'\]"):
        check_sparse(matrix, "layers['a']")
    with h5py.File(tmp_path / "file.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = matrix.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        with pytest.raises(DataError, match=r"X"):
            read_rows(keep_on_disk(stored_matrix(group, "X"), "X"), slice(0, 40))


@pytest.mark.parametrize("n_rows", [0, 1, 999, 1000, 1001, 1020, 5000, 10**7])
def test_a_sample_of_rows_is_spread_over_all(n_rows: int) -> None:
    rows = sampled_rows(n_rows)
    assert len(rows) <= 1000
    assert (np.diff(rows) > 0).all()
    assert np.diff(np.r_[-1, rows, n_rows]).max() <= max(1, n_rows / 49)

"""Matrices in each HDF5 and zarr layout give the same rows as the matrix in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from scipy import sparse

from spikgpt import kernels
from spikgpt.cells import gzip_arrays, on_disk
from spikgpt.cells.matrices import MatrixOnDisk, read_rows, stored_matrix, stored_rows
from spikgpt.cells.on_disk import StoredCSC, StoredCSR, StoredDense, keep_on_disk, sparse_rows
from spikgpt.errors import DataError

MATRIX = sparse.random(300, 40, density=0.2, format="csr", dtype=np.float32, random_state=0)
# Keywords that create the arrays of a matrix. Layouts with one-dimensional chunks are for sparse matrices.
HDF5: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "gzip": {"compression": "gzip"},
    "lzf": {"compression": "lzf"},
    "gzip, chunks": {"compression": "gzip", "chunks": (7,)},
    "dense chunks": {"compression": "gzip", "chunks": (7, 11)},
    "tall chunks": {"chunks": (300, 2)},
}
ZARR: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (64,)},
    "one chunk": {"chunks": (2400,)},
    "shards": {"chunks": (16,), "shards": (256,)},
    "dense chunks": {"chunks": (16, 8)},
    "dense shards": {"chunks": (16, 8), "shards": (64, 40)},
    "tall chunks": {"chunks": (300, 2)},
}
FORMS = {"csr": MATRIX, "csc": MATRIX.tocsc(), "dense": MATRIX.toarray()}
LAYOUTS = [
    (store, form, name)
    for store, settings in (("h5", HDF5), ("zarr 2", ZARR), ("zarr 3", ZARR))
    for name, keywords in settings.items()
    for form in FORMS
    if len(keywords.get("chunks", (0,) * (1 + (form == "dense")))) == 1 + (form == "dense")
    if not (store == "zarr 2" and "shards" in keywords)
]


@pytest.fixture(params=LAYOUTS, ids=", ".join)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MatrixOnDisk]:
    store, form, name = request.param
    keywords = (HDF5 if store == "h5" else ZARR)[name]
    if store == "h5":
        with h5py.File(tmp_path / "file.h5", "w") as file:
            write_elem(file, "X", FORMS[form], dataset_kwargs=keywords)
            yield keep_on_disk(stored_matrix(file["X"], "X"), "X")
        return
    root = zarr.open_group(tmp_path / "file.zarr", mode="w", zarr_format=int(store[-1]))  # type: ignore[arg-type]
    if form == "dense":
        array = root.create_array("X", shape=MATRIX.shape, dtype=np.float32, **keywords)
        array[:] = FORMS[form]
    else:
        group = root.create_group("X")
        attributes = {"encoding-type": f"{form}_matrix", "encoding-version": "0.1.0", "shape": MATRIX.shape}
        group.attrs.update(attributes)
        for part in ("data", "indices", "indptr"):
            values = getattr(FORMS[form], part)
            sizes = {} if part == "indptr" else keywords
            array = group.create_array(part, shape=values.shape, dtype=values.dtype, **sizes)
            array[:] = values
    yield keep_on_disk(stored_matrix(root["X"], "X"), "X")


@pytest.fixture(params=[None, 40], ids=["", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits so that a matrix of 300 cells has several blocks, bands, tiles and windows."""
    if request.param:
        for name in ("BLOCK_VALUES", "LARGE_CHUNK"):
            monkeypatch.setattr(on_disk, name, request.param)
        monkeypatch.setattr(on_disk, "TILE_BYTES", 1200)
        monkeypatch.setattr(on_disk, "BAND_BYTES", 10_000)


@pytest.mark.usefixtures("blocks")
def test_rows_equal_those_in_memory(stored: MatrixOnDisk) -> None:
    for start, stop in ((0, 300), (7, 9), (8, 150), (149, 300), (5, 5), (300, 300)):
        np.testing.assert_array_equal(read_rows(stored, slice(start, stop)).toarray(), MATRIX[start:stop].toarray())
        rows = stored_rows(stored, start, stop)
        again = sparse.csr_matrix(tuple(rows), shape=(stop - start, 40))
        np.testing.assert_array_equal(again.toarray(), MATRIX[start:stop].toarray())
    for wanted in (np.array([0, 3, 299]), np.arange(5, 300, 7), np.r_[0:40, 100:140, 298]):
        np.testing.assert_array_equal(read_rows(stored, wanted).toarray(), MATRIX[wanted].toarray())


def test_changes_of_read_rows_do_not_change_the_matrix(stored: MatrixOnDisk) -> None:
    for _ in range(2):
        rows = stored.stored_rows(10, 20)
        np.testing.assert_allclose(rows.data.sum(dtype=np.float64), MATRIX[10:20].sum(dtype=np.float64))
        rows.data[:] = 0
        rows.indices[:] = 0


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_the_other_byte_order_is_read(form: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", form(MATRIX))
        for part in ("data", "indices", "indptr"):
            values = file["X"][part][:]
            del file["X"][part]
            file["X"].create_dataset(part, data=values.astype(values.dtype.newbyteorder(">")))
        matrix = keep_on_disk(stored_matrix(file["X"], "X"), "X")
        assert isinstance(matrix, StoredCSR | StoredCSC)
        assert stored_rows(matrix, 3, 9).data.dtype.isnative
        np.testing.assert_array_equal(read_rows(matrix, slice(3, 9)).toarray(), MATRIX[3:9].toarray())


def decoded_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the first row of each decoded band of tiles is appended."""
    rows: list[int] = []
    original = StoredDense._tiles
    monkeypatch.setattr(StoredDense, "_tiles", lambda self, row: rows.append(row) or original(self, row))  # type: ignore[func-returns-value]
    return rows


def test_a_chunk_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", MATRIX.toarray(), dataset_kwargs={"chunks": (100, 40), "compression": "gzip"})
        read = decoded_tiles(monkeypatch)
        monkeypatch.setattr(on_disk, "TILE_BYTES", 16_000)
        matrix = keep_on_disk(file["X"], "X")
        for start in range(0, 300, 7):
            read_rows(matrix, slice(start, start + 7))
    assert read == [0, 100, 200]


def test_bands_of_a_sample_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", MATRIX.toarray(), dataset_kwargs={"chunks": (50, 40), "compression": "gzip"})
        read = decoded_tiles(monkeypatch)
        monkeypatch.setattr(on_disk, "TILE_BYTES", 8_000)
        matrix = keep_on_disk(file["X"], "X")
        for _ in range(2):
            sample = read_rows(matrix, np.array([3, 120, 260]))
        assert (sample != MATRIX[[3, 120, 260]]).nnz == 0
        assert (read_rows(matrix, slice(0, 300)) != MATRIX).nnz == 0
    assert read == [0, 100, 250, 50, 150, 200]


@pytest.mark.parametrize("least_cells", [0, 10**9], ids=["compiled", "NumPy"])
def test_large_chunks_are_tiles(least_cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LEAST_CELLS", least_cells)
    monkeypatch.setattr(on_disk, "SEPARATE_CHUNK", 1)
    monkeypatch.setattr(gzip_arrays, "LEAST_CHUNK", 1)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", MATRIX.toarray(), dataset_kwargs={"chunks": (70, 11), "compression": "gzip"})
        matrix = keep_on_disk(file["X"], "X")
        assert matrix.span == 70
        assert (read_rows(matrix, slice(60, 290)) != MATRIX[60:290]).nnz == 0


def test_rows_of_a_matrix_by_columns_beyond_its_shape_are_refused_each_time(tmp_path: Path) -> None:
    damaged = MATRIX.tocsc()
    damaged.indices[3] = 300
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_elem(file, "X", damaged)
        matrix = keep_on_disk(stored_matrix(file["X"], "X"), "X")
        for _ in range(2):
            with pytest.raises(DataError, match="300"):
                read_rows(matrix, slice(0, 3))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
def test_sparse_rows_of_dense_values(dtype: Any) -> None:
    dense = (10 * MATRIX.toarray()).astype(dtype)
    rows = sparse_rows(dense)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows.toarray(), dense.astype(np.float32))
    rows = sparse_rows(np.array([[0, np.nan, np.inf]]))
    np.testing.assert_array_equal(rows.data, [np.nan, np.inf])

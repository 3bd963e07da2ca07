"""Chunks that are decompressed without h5py have the values that h5py reads; damaged chunks are refused."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spikgpt.cells import gzip_arrays
from spikgpt.cells.gzip_arrays import GzipArray, fast_array
from spikgpt.cells.matrices import read_rows, stored_matrix
from spikgpt.cells.on_disk import keep_on_disk
from spikgpt.errors import DataError

VALUES = np.random.default_rng(0).poisson(0.4, (70, 45))
GZIP: dict[str, Any] = {"compression": "gzip", "chunks": (16, 20)}
SHUFFLED = GZIP | {"shuffle": True}


@pytest.fixture(params=["deflate", "zlib"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "deflate":
        pytest.importorskip("deflate")
    else:
        monkeypatch.setattr(gzip_arrays, "_decompressor", lambda: gzip_arrays._by_zlib)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_arrays, "LEAST_CHUNK", 1)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("keywords", [GZIP, SHUFFLED], ids=["gzip", "shuffle"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i8", "<i2", "u1"])
def test_parts_equal_those_of_h5py(dtype: str, keywords: dict[str, Any], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        array = file.create_dataset("X", data=VALUES.astype(dtype), **keywords)
        flat = file.create_dataset("data", data=VALUES.ravel().astype(dtype), **keywords | {"chunks": (100,)})
        fast, fast_flat = fast_array(array), fast_array(flat)
        assert isinstance(fast, GzipArray)
        for index in np.s_[0:16, 0:20], np.s_[64:80, 40:60], np.s_[3:50, 7:41], np.s_[5:5, :], np.s_[16:32]:
            np.testing.assert_array_equal(fast[index], array[index])
        for part in slice(0, 100), slice(0, 30), slice(30, 250), slice(3100, None), slice(9, 9):
            np.testing.assert_array_equal(fast_flat[part], flat[part])


def test_changes_of_read_values_do_not_change_the_array(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        fast = fast_array(file.create_dataset("X", data=VALUES, **GZIP))
        for index in np.s_[0:16, 0:20], np.s_[0:5, 0:5]:
            fast[index][:] = 99
            np.testing.assert_array_equal(fast[index], VALUES[index])


def test_missing_and_uncompressed_chunks_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        array = file.create_dataset("X", (70, 45), dtype="f4", fillvalue=3, **GZIP)
        array[:16] = 1
        stored = np.full((16, 20), 5, dtype="f4")
        array.id.write_direct_chunk((16, 0), stored.tobytes(), filter_mask=1)
        np.testing.assert_array_equal(fast_array(array)[:], array[:])
        assert {1, 3, 5} == set(array[:].ravel())


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"chunks": (16, 20)},
        {"chunks": (16, 20), "compression": "lzf"},
        GZIP | {"fletcher32": True},
        GZIP | {"scaleoffset": 0},
        GZIP | {"dtype": bool},
        GZIP | {"dtype": "S3"},
    ],
    ids=["contiguous", "chunks", "lzf", "checksum", "offset", "bool", "text"],
)
def test_other_arrays_are_read_by_h5py(keywords: dict[str, Any], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        array = file.create_dataset("X", data=VALUES.astype(keywords.pop("dtype", "i4")), **keywords)
        assert fast_array(array) is array


def test_large_chunks_are_read_by_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_arrays, "LARGEST_CHUNK", 16 * 20 * VALUES.itemsize)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        assert isinstance(fast_array(file.create_dataset("X", data=VALUES, **GZIP)), GzipArray)
        taller = file.create_dataset("taller", data=VALUES, **GZIP | {"chunks": (17, 20)})
        assert fast_array(taller) is taller


def test_numbers_of_unusual_width_are_read_by_h5py(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        narrow = h5py.h5t.STD_I32LE.copy()
        narrow.set_precision(20)
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((16, 20))
        properties.set_deflate(4)
        h5py.h5d.create(file.id, b"X", narrow, h5py.h5s.create_simple((70, 45)), properties)
        assert not isinstance(fast_array(file["X"]), GzipArray)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize(
    "damage",
    [
        lambda chunk: zlib.compress(zlib.decompress(chunk) + bytes(4)),
        lambda chunk: zlib.compress(bytes(100_000_000)),
        lambda chunk: zlib.compress(zlib.decompress(chunk)[:-4]),
        lambda chunk: chunk[:-9],
        lambda chunk: chunk[:30] + bytes(30) + chunk[60:],
        lambda chunk: b"x",
    ],
    ids=["larger", "100 MB", "smaller", "cut short", "zeros inside", "one byte"],
)
def test_chunks_of_another_size_and_damaged_chunks_are_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        array = file.create_dataset("X", data=VALUES.astype("f4"), **GZIP)
        array.id.write_direct_chunk((16, 20), damage(array.id.read_direct_chunk((16, 20))[1]))
        matrix = keep_on_disk(stored_matrix(array, "X"), "X")
        with pytest.raises(DataError, match="X cannot be read: Error while decompressing"):
            read_rows(matrix, slice(0, 70))

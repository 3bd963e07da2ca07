"""Files with links to other data, or with arrays of impossible size, are refused before reading."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells import storage
from spikgpt.cells.output import write_copy
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError
from tests.cells.conftest import endless, write_zarr


def external_array(file: h5py.File, other: Path) -> None:
    other.write_bytes(b"secret" * 100)
    file.create_dataset("uns/text", (100,), "u1", external=[(str(other), 0, 100)])


def virtual_array(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as elsewhere:
        elsewhere["text"] = np.arange(9)
    layout = h5py.VirtualLayout((9,), "i8")
    layout[:] = h5py.VirtualSource(other, "text", (9,))
    file.create_virtual_dataset("uns/text", layout)


LINKS: dict[str, Callable[[Any, Path], Any]] = {
    "to another file": lambda file, other: file.__setitem__("uns/text", h5py.ExternalLink(other, "/obs")),
    "to itself": lambda file, _: file.__setitem__("uns/text", h5py.SoftLink("/uns/text")),
    "to another element": lambda file, _: file.__setitem__("uns/text", h5py.SoftLink("/obs")),
    "to its own group": lambda file, _: file["uns"].__setitem__("text", file["uns"]),
    "to the bytes of another file": external_array,
    "to parts of another file": virtual_array,
}


@pytest.mark.parametrize("link", LINKS)
def test_links_are_not_followed(real: AnnData, link: str, tmp_path: Path) -> None:
    real.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        LINKS[link](file, tmp_path / "other.h5")
    with pytest.raises(DataError, match=r"a\.h5ad holds a link, /uns/text; put the data itself there\."):
        read_cells(tmp_path / "a.h5ad")


def test_links_of_a_folder_are_not_followed(real: AnnData, tmp_path: Path) -> None:
    write_zarr(real, tmp_path / "a.zarr", 3)
    part = tmp_path / "a.zarr" / "X" / "data" / "c" / "0"
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"a\.zarr holds a link, 0; put the file itself there\."):
        read_cells(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").symlink_to(tmp_path / "c.zarr")
    write_zarr(real, tmp_path / "c.zarr", 3)
    assert read_cells(tmp_path / "b.zarr").n_obs == real.n_obs


@pytest.mark.parametrize(
    ("shape", "chunks"), [((10**14,), (1000,)), ((10**9,), (10**9,)), ((10**7,), (1,)), ((10, 10**9), (1, 1000))]
)
def test_arrays_larger_than_the_file_can_hold_are_refused(
    real: AnnData, shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path
) -> None:
    real.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file.create_dataset("uns/large", shape, "f4", chunks=chunks if max(chunks) < 10**9 else None)
    match = r"has \d+ bytes and declares an array /uns/large of shape"
    with pytest.raises(DataError, match=match), open_cells(tmp_path / "a.h5ad"):
        pass
    write_zarr(real, tmp_path / "a.zarr", 3)
    metadata = tmp_path / "a.zarr" / "X" / "indptr" / "zarr.json"
    stated = json.loads(metadata.read_text()) | {"shape": shape}
    stated["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    metadata.write_text(json.dumps(stated))
    with pytest.raises(DataError, match=r"has \d+ bytes and declares an array /X/indptr of shape"):
        read_cells(tmp_path / "a.zarr")


@pytest.mark.slow
def test_a_file_on_which_the_hdf5_library_hangs_is_refused(
    few: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    endless(tmp_path / "a.h5ad")
    (tmp_path / "b.h5ad.gz").write_bytes(gzip.compress((tmp_path / "a.h5ad").read_bytes()))
    with h5py.File(tmp_path / "10x.h5", "w") as file:
        file.create_dataset("matrix/barcodes", data=["text"], dtype=h5py.string_dtype())
    endless(tmp_path / "10x.h5")
    monkeypatch.setattr(storage, "WALK_SECONDS", 1)
    for name in ("a.h5ad", "b.h5ad.gz", "10x.h5"):
        match = rf"^\S*{name} cannot be read: .* did not finish within 1 s; expected an undamaged file\. Write .*\.$"
        with pytest.raises(DataError, match=match), open_cells(tmp_path / name):
            pass
        with pytest.raises(DataError, match=match):
            read_cells(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.h5ad cannot be read: .* within 1 s"):
        write_copy(tmp_path / "a.h5ad", tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


def locked(few: AnnData, path: Path) -> Iterator[None]:
    few.write_h5ad(path)
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        yield
        writer.kill()


def without_filter(few: AnnData, path: Path) -> Iterator[None]:
    # The filter number of gzip is replaced by that of blosc, which h5py lacks.
    few.write_h5ad(path, compression="gzip")
    content = bytearray(path.read_bytes())
    position = -1
    while (position := content.find(b"deflate\0", position + 1)) >= 0:
        content[position - 8 : position - 6] = (32001).to_bytes(2, "little")
    path.write_bytes(content)
    yield


def without_codec(few: AnnData, path: Path) -> Iterator[None]:
    write_zarr(few, path, 2)
    stated = json.loads((path / "X" / "data" / ".zarray").read_text())
    (path / "X" / "data" / ".zarray").write_text(json.dumps(stated | {"compressor": {"id": "none-such"}}))
    yield


def newer_zarr(few: AnnData, path: Path) -> Iterator[None]:
    write_zarr(few, path, 3)
    stated = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(stated | {"zarr_format": 4}))
    yield


def newer_encoding(few: AnnData, path: Path) -> Iterator[None]:
    few.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs/_index"].attrs["encoding-version"] = "9.0.0"
    yield


CAUSES: dict[str, tuple[str, Callable[[AnnData, Path], Iterator[None]], str]] = {
    "a writer": ("a.h5ad", locked, r"Close the file there; .* HDF5_USE_FILE_LOCKING=FALSE"),
    "a filter": ("a.h5ad", without_filter, r"filter that is not installed: pip install hdf5plugin"),
    "a codec": ("a.zarr", without_codec, r"codec that is not installed here\. Upgrade zarr"),
    "the format of zarr": ("a.zarr", newer_zarr, r"a format that zarr here does not know\. Upgrade zarr"),
    "the version": ("a.h5ad", newer_encoding, r"'string-array' '9\.0\.0'\. Upgrade anndata"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_known_causes_are_named(few: AnnData, cause: str, tmp_path: Path) -> None:
    name, make, match = CAUSES[cause]
    with contextmanager(make)(few, tmp_path / name):
        with pytest.raises(DataError, match=match) as caught:
            read_cells(tmp_path / name)
        assert "damaged" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_error_on_an_unknown_cause_is_the_message_of_the_library() -> None:
    match = r"^a\.h5ad cannot be read: 'seven'\. This is the message of the library\."
    with pytest.raises(DataError, match=match) as caught, storage.as_data_errors("a.h5ad"):
        dict[str, int]()["seven"]
    assert "damaged" not in str(caught.value)


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Return a function that replaces the Python executable by a shell script with a given name and command."""

    def replace_python(name: str, command: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setattr(sys, "executable", os.fspath(tmp_path / name))

    return replace_python


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_file_on_which_the_hdf5_library_crashes_is_refused(
    few: AnnData, python: Callable[[str, str], None], tmp_path: Path
) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    python("python3", "kill -SEGV $$")
    match = r"a\.h5ad cannot be read: the HDF5 library crashed \(SIGSEGV\); expected an undamaged file\."
    with pytest.raises(DataError, match=match):
        read_cells(tmp_path / "a.h5ad")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_an_unchanged_file_is_checked_once(few: AnnData, python: Callable[[str, str], None], tmp_path: Path) -> None:
    walks = tmp_path / "walks"
    python("python3", f"echo walked >> {walks}")
    for count in (1, 2):
        few.write_h5ad(tmp_path / "a.h5ad")
        with open_cells(tmp_path / "a.h5ad"):
            write_copy(tmp_path / "a.h5ad", tmp_path / "out.h5ad")
        assert len(walks.read_text().split()) == count


@pytest.mark.parametrize("name", ["an application", "missing python", "python without h5py"])
def test_files_are_read_if_no_other_process_can_check_them(
    few: AnnData,
    name: str,
    python: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    python(name, "exit 1" if name.endswith("h5py") else f"touch {tmp_path}/started; kill -SEGV $$")
    if name.startswith("missing"):
        (tmp_path / name).unlink()
    assert read_cells(tmp_path / "a.h5ad").shape == few.shape
    assert not (tmp_path / "started").exists()
    monkeypatch.setattr(sys, "executable", None)
    os.utime(tmp_path / "a.h5ad", (1, 1))
    assert read_cells(tmp_path / "a.h5ad").shape == few.shape

"""The walk over an HDF5 file reads all that readers need, raises no errors, and ends if the library hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells import walk
from spikgpt.cells.storage import most_bytes
from tests.cells.conftest import endless


class Reads:
    """Recorder of the names of arrays and attributes that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrays: set[str] = set()
        self.attributes: set[str] = set()
        of_array, of_attribute = h5py.Dataset.__getitem__, h5py.AttributeManager.__getitem__

        def array(item: Any, key: Any) -> Any:
            self.arrays.add(item.name)
            return of_array(item, key)

        def attribute(item: Any, key: str) -> Any:
            self.attributes.add(key)
            return of_attribute(item, key)

        monkeypatch.setattr(h5py.Dataset, "__getitem__", array)
        monkeypatch.setattr(h5py.AttributeManager, "__getitem__", attribute)


def test_all_data_but_large_numeric_arrays_is_read(
    few: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5ad"
    few.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["uns/numbers"] = np.zeros(walk.SMALL)
        file["uns/texts"] = np.array(["text"] * 200_000, object)
        file["uns/nothing"] = h5py.Empty("f4")
        expected: set[str] = set()
        file.visititems(lambda _, item: expected.add(item.name) if isinstance(item, h5py.Dataset) else None)
    reads = Reads(monkeypatch)
    walk.read_all(path, most_bytes(path.stat().st_size))
    assert reads.arrays == expected - {"/uns/numbers", "/uns/nothing"}
    assert {"encoding-type", "encoding-version", "column-order", "_index"} <= reads.attributes


def test_links_and_too_large_arrays_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["text"] = np.arange(9)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["outside"] = h5py.ExternalLink("other.h5", "/text")
        file["itself"] = h5py.SoftLink("/itself")
        file["group/up"] = file["/"]
        file.create_dataset("bytes", (9,), "u1", external=[("other.h5", 0, 9)])
        layout = h5py.VirtualLayout((9,), "i8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "text", (9,))
        file.create_virtual_dataset("parts", layout)
        file.create_dataset("texts", (10**12,), h5py.string_dtype(), chunks=(1000,))
        file.create_dataset("chunk", (10,), h5py.string_dtype(), chunks=(10**9,), maxshape=(None,))
        file["here"] = 1
    reads = Reads(monkeypatch)
    walk.read_all(tmp_path / "a.h5", most_bytes(1))
    assert reads.arrays == {"/here"}


def test_errors_are_left_to_the_reader(few: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reads = Reads(monkeypatch)
    walk.read_all(tmp_path / "none.h5ad", 1)
    few.write_h5ad(tmp_path / "a.h5ad")
    whole = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "a.h5ad").write_bytes(whole[:-1000])
    walk.read_all(tmp_path / "a.h5ad", 1)
    assert not reads.arrays
    names = whole.index(b"GCOL")
    (tmp_path / "a.h5ad").write_bytes(whole[:names] + bytes(4) + whole[names + 4 :])
    walk.read_all(tmp_path / "a.h5ad", most_bytes(1))
    assert len(reads.arrays) > 5


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows, the parent process ends the walk")
def test_the_walk_ends_after_its_time_limit(few: AnnData, tmp_path: Path) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    command = [sys.executable, "-I", walk.__file__, str(tmp_path / "a.h5ad"), "1000000"]
    assert subprocess.run([*command, "60", *filter(None, sys.path)]).returncode == 0
    endless(tmp_path / "a.h5ad")
    assert subprocess.run([*command, "1", *filter(None, sys.path)]).returncode < 0


def test_a_damaged_group_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group in ("a", "b", "c"):
            file[f"{group}/values"] = np.arange(9)
    members = h5py.Group.__iter__

    def damaged(group: Any) -> Any:
        if group.name == "/b":
            msg = "bad symbol table node"
            raise RuntimeError(msg)
        return members(group)

    monkeypatch.setattr(h5py.Group, "__iter__", damaged)
    reads = Reads(monkeypatch)
    # Six objects are read: the root, three groups, and the arrays in two groups.
    assert walk.read_all(tmp_path / "a.h5", most_bytes(1)) == 6
    assert reads.arrays == {"/a/values", "/c/values"}

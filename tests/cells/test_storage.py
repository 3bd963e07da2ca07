"""Files that lead to others, or state more than they can hold, are refused before anything is read from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError
from tests.cells.conftest import write_zarr


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
    "to another place": lambda file, _: file.__setitem__("uns/text", h5py.SoftLink("/obs")),
    "to what holds it": lambda file, _: file["uns"].__setitem__("text", file["uns"]),
    "to the bytes of another file": external_array,
    "to parts of another file": virtual_array,
}


@pytest.mark.parametrize("link", LINKS)
def test_links_are_not_followed(few: AnnData, link: str, tmp_path: Path) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        LINKS[link](file, tmp_path / "other.h5")
    with pytest.raises(DataError, match=r"a\.h5ad holds a link, /uns/text; put the data itself there\."):
        read_cells(tmp_path / "a.h5ad")


def test_links_of_a_folder_are_not_followed(few: AnnData, tmp_path: Path) -> None:
    write_zarr(few, tmp_path / "a.zarr", 3)
    part = tmp_path / "a.zarr" / "X" / "data" / "c" / "0"
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"a\.zarr holds a link, 0; put the file itself there\."):
        read_cells(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").symlink_to(tmp_path / "c.zarr")
    write_zarr(few, tmp_path / "c.zarr", 3)
    assert read_cells(tmp_path / "b.zarr").n_obs == few.n_obs


@pytest.mark.parametrize(
    ("shape", "chunks"), [((10**14,), (1000,)), ((10**9,), (10**9,)), ((10**7,), (1,)), ((10, 10**9), (1, 1000))]
)
def test_a_file_states_no_more_than_it_can_hold(
    few: AnnData, shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path
) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file.create_dataset("uns/large", shape, "f4", chunks=chunks if max(chunks) < 10**9 else None)
    match = r"has \d+ bytes and states an array /uns/large of shape"
    with pytest.raises(DataError, match=match), open_cells(tmp_path / "a.h5ad"):
        pass
    write_zarr(few, tmp_path / "a.zarr", 3)
    metadata = tmp_path / "a.zarr" / "X" / "indptr" / "zarr.json"
    stated = json.loads(metadata.read_text()) | {"shape": shape}
    stated["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    metadata.write_text(json.dumps(stated))
    with pytest.raises(DataError, match=r"has \d+ bytes and states an array /X/indptr of shape"):
        read_cells(tmp_path / "a.zarr")

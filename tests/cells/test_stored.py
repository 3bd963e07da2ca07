"""Unreadable elements that are not needed are skipped, and files of other programs are read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from spikgpt.cells import stored
from spikgpt.cells.obs import labels_of
from spikgpt.cells.output import write_copy
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError, SpikGPTWarning
from tests.cells.conftest import write_zarr

TYPES = ["alpha", "ß-cell", "beta", "alpha"]


@pytest.fixture
def four_cells() -> AnnData:
    """Return four made-up cells with content in every slot of an AnnData."""
    random = np.random.default_rng(0)
    counts = sparse.csr_matrix(random.poisson(1, (4, 5)).astype(np.float32))
    obs = pd.DataFrame({"type": pd.Categorical(TYPES), "n": np.arange(4)}, index=[f"cell {row}" for row in range(4)])
    adata = AnnData(counts, obs=obs, var=pd.DataFrame({"n": np.arange(5)}, index=[f"gene {g}" for g in range(5)]))
    adata.raw = adata.copy()
    adata.layers["counts"], adata.obsm["X_pca"] = counts.copy(), random.random((4, 2))
    adata.obsp["distances"], adata.varm["PCs"] = sparse.csr_matrix(random.random((4, 4))), random.random((5, 2))
    adata.uns["pca"] = {"params": {"layer": None}, "names": np.array([("a", 1)], dtype=[("x", "O"), ("y", "f4")])}
    return adata


def unknown(name: str) -> Callable[[h5py.File], None]:
    """Return a function that gives an element of a file an encoding unknown to anndata."""

    def change(file: h5py.File) -> None:
        file[name].attrs["encoding-type"], file[name].attrs["encoding-version"] = "hologram", "9.0.0"

    return change


def null(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        attributes = file.create_dataset(name, data=h5py.Empty("f4")).attrs
        attributes["encoding-type"], attributes["encoding-version"] = "null", "0.1.0"

    return change


def shorten(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        kept = file[f"{name}/data"][:-1]
        del file[f"{name}/data"]
        file[f"{name}/data"] = kept

    return change


# For each case: a function that damages an element of a file, and a pattern of the expected warning.
# The pattern is empty if there is no warning, because SpikGPT never needs the element.
ODD: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "uns": (unknown("uns/pca"), ""),
    "obsp": (unknown("obsp/distances"), ""),
    "varm": (unknown("varm/PCs"), ""),
    "obsm": (unknown("obsm/X_pca"), r"obsm\['X_pca'\] \(No read method .*hologram"),
    "a layer": (unknown("layers/counts"), r"layers\['counts'\]"),
    "a short layer": (shorten("layers/counts"), r"layers\['counts'\] .*has data of shape"),
    "raw": (shorten("raw/X"), r"raw \(.*raw/X has data of shape"),
    "a column of obs": (unknown("obs/n"), r"obs\['n'\]"),
    "a column of var": (unknown("var/n"), r"var\['n'\]"),
    "a null in obsm": (null("obsm/none"), ""),
    "a null in layers": (null("layers/none"), ""),
    "a null in uns": (null("uns/none"), ""),
    "another element": (lambda file: file.create_group("spatial"), ""),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_element_that_cannot_be_read_stops_neither_labels_nor_a_copy(
    four_cells: AnnData, odd: str, tmp_path: Path
) -> None:
    four_cells.write_h5ad(tmp_path / "a.h5ad")
    change, warning = ODD[odd]
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        change(file)
    warned = pytest.warns(SpikGPTWarning, match=warning) if warning else nullcontext()
    with warned, open_cells(tmp_path / "a.h5ad") as opened:
        assert labels_of(opened, "type")[0].tolist() == TYPES
        assert opened.obs_names.equals(four_cells.obs_names)
        assert opened.X[:].toarray().tolist() == four_cells.X.toarray().tolist()
    labels = np.array(TYPES, dtype=object)
    write_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", obs={"label": labels})
    with h5py.File(tmp_path / "b.h5ad") as file:
        assert file["obs/label"].asstr()[:].tolist() == TYPES
        assert set(file["uns"]) == set(four_cells.uns) | ({"none"} if odd == "a null in uns" else set())


@pytest.mark.parametrize("layer", ["a layer", "a short layer"])
def test_all_odd_elements_together_do_not_stop_a_copy_in_the_other_format(
    four_cells: AnnData, layer: str, tmp_path: Path
) -> None:
    four_cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for odd in ODD.keys() - {"a layer", "a short layer"} | {layer}:
            ODD[odd][0](file)
    write_copy(tmp_path / "a.h5ad", tmp_path / "b.zarr", obs={"label": np.array(TYPES, dtype=object)})
    assert anndata.io.read_zarr(tmp_path / "b.zarr").obs["label"].tolist() == TYPES


def fixed_bytes(file: h5py.File) -> None:
    """Store names and categories as bytes of fixed length, as MuDataSeurat and other R packages do."""
    for name in ("obs/_index", "var/_index", "obs/type/categories"):
        texts = file[name].asstr()[:]
        del file[name]
        file[name] = np.array([text.encode() for text in texts], dtype="S9")
        file[name].attrs["encoding-type"], file[name].attrs["encoding-version"] = "array", "0.2.0"


def categories_aside(file: h5py.File) -> None:
    """Store the categories of a column in ``obs/__categories``, as anndata 0.7 and SeuratDisk do."""
    codes, categories = file["obs/type/codes"][:], file["obs/type/categories"].asstr()[:]
    del file["obs/type"]
    file["obs"].create_group("__categories")["type"] = categories.astype(object)
    file["obs/type"] = codes
    file["obs/type"].attrs["categories"] = file["obs/__categories/type"].ref
    file["obs"].attrs["encoding-version"] = "0.1.0"


def categories_without_references(file: h5py.File) -> None:
    categories_aside(file)
    del file["obs/type"].attrs["categories"], file["obs"].attrs["encoding-type"]


def without(*attributes: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for group in (file["obs"], file["var"]):
            for name in attributes:
                del group.attrs[name]

    return change


def as_list(file: h5py.File) -> None:
    file["obs"].attrs["_index"] = np.array(["_index"], dtype=object)


WRITERS: dict[str, Callable[[h5py.File], None]] = {
    "fixed-length bytes": fixed_bytes,
    "categories aside": categories_aside,
    "categories aside without references": categories_without_references,
    "no column order": without("column-order"),
    "no _index": without("_index"),
    "no encoding": without("encoding-type", "encoding-version"),
    "nothing stated": without("column-order", "_index", "encoding-type", "encoding-version"),
    "the encoding of a dict": lambda file: file["obs"].attrs.modify("encoding-type", "dict"),
    "a list of one": as_list,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_tables_of_other_writers_are_read_and_written(four_cells: AnnData, writer: str, tmp_path: Path) -> None:
    four_cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        WRITERS[writer](file)
    with open_cells(tmp_path / "a.h5ad") as opened:
        assert labels_of(opened, "type")[0].tolist() == TYPES
        assert opened.obs_names.equals(four_cells.obs_names)
        assert opened.var_names.equals(four_cells.var_names)
        assert sorted(opened.obs.columns) == ["n", "type"]
    assert read_cells(tmp_path / "a.h5ad").obs_names.equals(four_cells.obs_names)
    write_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", obs={"label": pd.Categorical(TYPES)})
    with open_cells(tmp_path / "b.h5ad") as opened:
        assert labels_of(opened, "type")[0].tolist() == labels_of(opened, "label")[0].tolist() == TYPES
    with h5py.File(tmp_path / "b.h5ad") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.OldFormatWarning)
        assert read_elem(file["obs"])["label"].tolist() == TYPES


def test_a_table_without_names_is_refused(four_cells: AnnData, tmp_path: Path) -> None:
    four_cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        without("_index")(file)
        del file["var/_index"]
    with pytest.raises(DataError, match="var holds no names of its genes; expected the attribute _index"):
        read_cells(tmp_path / "a.h5ad")


def test_raw_of_old_files_is_read_and_copied(four_cells: AnnData, tmp_path: Path) -> None:
    four_cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["raw"]
        file["raw.X"] = four_cells.raw.X.toarray()
        names = [(name.encode(), 1) for name in four_cells.raw.var_names]
        file["raw.var"] = np.array(names, dtype=[("index", "S9"), ("n", "i4")])
    with open_cells(tmp_path / "a.h5ad") as opened:
        assert opened.raw.var_names.tolist() == four_cells.raw.var_names.tolist()
        np.testing.assert_array_equal(opened.raw.X, four_cells.raw.X.toarray())
    write_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", obs={"label": np.arange(4)})
    with pytest.warns(anndata.OldFormatWarning):
        written = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert written.raw.shape == (4, 5)
    assert written.obs["label"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("source", [".h5ad", ".zarr"])
@pytest.mark.parametrize("target", [".h5ad", ".zarr"])
def test_names_as_nullable_strings_are_copied(four_cells: AnnData, source: str, target: str, tmp_path: Path) -> None:
    # pandas 3 with anndata 0.13 stores names as nullable strings.
    four_cells.obs["type"] = four_cells.obs["type"].astype(str).astype("string").where(four_cells.obs["n"] > 0)
    four_cells.obs.index, four_cells.var.index = (
        four_cells.obs.index.astype("string"),
        four_cells.var.index.astype("string"),
    )
    four_cells.raw = None
    with anndata.settings.override(allow_write_nullable_strings=True):
        four_cells.write_h5ad(tmp_path / "a.h5ad") if source == ".h5ad" else write_zarr(
            four_cells, tmp_path / "a.zarr", 3
        )
    path = tmp_path / f"b{target}"
    write_copy(tmp_path / f"a{source}", path, obs={"label": np.arange(4)})
    written = anndata.read_h5ad(path) if target == ".h5ad" else anndata.io.read_zarr(path)
    assert written.obs_names.tolist() == four_cells.obs_names.tolist()
    assert written.obs["type"].isna().tolist() == [True, False, False, False]
    assert not anndata.settings.allow_write_nullable_strings


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_large_vectors_stay_in_the_store(
    four_cells: AnnData, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BLOCK_BYTES", 50)
    four_cells.obsm["X_umap"] = np.zeros((4, 1))
    four_cells.write_h5ad(tmp_path / name) if name.endswith("h5ad") else write_zarr(four_cells, tmp_path / name, 3)
    with open_cells(tmp_path / name) as cells:
        assert not isinstance(cells.obsm["X_pca"], np.ndarray)
        assert isinstance(cells.obsm["X_umap"], np.ndarray)
        np.testing.assert_array_equal(cells.obsm["X_pca"][1:3], four_cells.obsm["X_pca"][1:3])
    assert isinstance(read_cells(tmp_path / name).obsm["X_pca"], np.ndarray)


def test_large_vectors_that_cannot_be_read_are_left_out(
    four_cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BLOCK_BYTES", 50)
    four_cells.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    with h5py.File(tmp_path / "a.h5ad") as file:
        offset = file["obsm/X_pca"].id.get_chunk_info(0).byte_offset
    with (tmp_path / "a.h5ad").open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"damaged")
    with pytest.warns(SpikGPTWarning, match="X_pca"), open_cells(tmp_path / "a.h5ad") as cells:
        assert list(cells.obsm) == []

"""HDF5 files of other programs are refused with the command that converts the file to h5ad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.io import write_elem

from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError


def mudata(few: AnnData, root: h5py.File | zarr.Group) -> None:
    # mudata writes the tables of all modalities at the root, and each modality into a subgroup.
    root.attrs["encoding-type"], root.attrs["encoding-version"] = "MuData", "0.1.0"
    write_elem(root, "obs", few.obs)
    write_elem(root, "var", few.var)
    write_elem(root, "mod/rna", few)
    write_elem(root, "mod/atac", few)


def loom(few: AnnData, root: h5py.File) -> None:
    root["matrix"] = few.X.T.toarray()
    root["row_attrs/Gene"] = few.var_names.to_numpy().astype("S")
    root["col_attrs/CellID"] = few.obs_names.to_numpy().astype("S")


def h5seurat(_few: AnnData, root: h5py.File) -> None:
    for name in ("assays/RNA", "meta.data", "reductions"):
        root.create_group(name)


def molecules(_few: AnnData, root: h5py.File) -> None:
    root["barcode_idx"], root["feature_idx"], root["count"] = np.arange(3), np.arange(3), np.arange(3)


def pandas_table(_few: AnnData, root: h5py.File) -> None:
    root.attrs["PYTABLES_FORMAT_VERSION"] = "2.1"
    root.create_group("counts")


OTHERS: dict[str, tuple[Callable[[AnnData, h5py.File], None], str]] = {
    "a.h5mu": (mudata, r'modalities atac, rna\. .*\.mod\["rna"\]\.write_h5ad\("rna\.h5ad"\)'),
    "a.loom": (loom, r"loom file.*read_loom\(.*write_h5ad"),
    "a.h5seurat": (h5seurat, r"h5Seurat file\. .*SeuratDisk::Convert"),
    "molecule_info.h5": (molecules, r"10x molecule file\. Give filtered_feature_bc_matrix\.h5"),
    "table.h5": (pandas_table, r'pandas\.read_hdf\(".*table\.h5", "counts"\)'),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_are_named(few: AnnData, name: str, tmp_path: Path) -> None:
    make, match = OTHERS[name]
    with h5py.File(tmp_path / name, "w") as file:
        make(few, file)
    with pytest.raises(DataError, match=match) as caught:
        read_cells(tmp_path / name)
    assert "damaged" not in str(caught.value)
    with pytest.raises(DataError, match=match), open_cells(tmp_path / name):
        pass


def test_a_zarr_folder_of_mudata_is_named(few: AnnData, tmp_path: Path) -> None:
    mudata(few, zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2))
    with pytest.raises(DataError, match=r"is a MuData file with the modalities atac, rna"):
        read_cells(tmp_path / "a.zarr")

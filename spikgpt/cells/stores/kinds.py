"""Sentences for HDF5 files and zarr folders that are no AnnData: what they are, and what to do."""

from __future__ import annotations

from typing import Any

from spikgpt.errors import listed


def other_store(root: Any, path: object) -> str | None:
    """Say what an open store is that is neither AnnData nor a 10x file, and what to do; None for any other.

    Parameters
    ----------
    path
        What the sentence calls the store.
    """
    names = set(root)
    if "mod" in names and not {"X", "raw"} & names:
        modalities = sorted(root["mod"])
        rna = next((name for name in modalities if name.lower() in ("rna", "gex")), "rna")
        return (
            f"is a MuData file with the modalities {listed(modalities)}. Write one of them as a file of its own: "
            f'mudata.read("{path}").mod["{rna}"].write_h5ad("{rna}.h5ad")'
        )
    if {"matrix", "row_attrs", "col_attrs"} <= names:
        return f'is a loom file. Write it as h5ad: scanpy.read_loom("{path}").write_h5ad("cells.h5ad")'
    if {"assays", "meta.data"} <= names:
        return f'is an h5Seurat file. Convert it in R: SeuratDisk::Convert("{path}", dest = "h5ad")'
    if {"barcode_idx", "molecule_info"} & names and "matrix" not in names:
        return "is a 10x molecule file. Give filtered_feature_bc_matrix.h5 of the same run"
    if "spatialdata_attrs" in root.attrs or {"tables", "shapes"} <= names:
        tables = listed(sorted(root["tables"])) if "tables" in names else "none"
        return f"is a SpatialData store. Give one of its tables, such as {path}/tables/NAME; it has {tables}"
    if "PYTABLES_FORMAT_VERSION" in root.attrs:
        return (
            f'is a pandas table. Write it as CSV: pandas.read_hdf("{path}", "{min(names, default="")}").to_csv("c.csv")'
        )
    return None

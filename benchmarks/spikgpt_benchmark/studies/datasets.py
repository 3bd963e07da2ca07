"""Cells of published studies, with cell types in ``obs["cell_type"]`` under shared names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy import sparse

from spikgpt.errors import DataError

LABEL = "cell_type"
# Smallest number of cells of a label in a reference.
CELLS_PER_LABEL = 5
# Shared names of the labels of the PBMC studies; cells with other labels are left out.
PBMC_LABELS = {
    **dict.fromkeys(("Naive CD4 T", "Memory CD4 T", "CD4 Naive T", "CD4 Memory T"), "CD4 T"),
    **dict.fromkeys(("CD14+ Mono", "CD14 Mono"), "CD14 Mono"),
    **dict.fromkeys(("FCGR3A+ Mono", "CD16 Mono"), "CD16 Mono"),
    **dict.fromkeys(("Platelet", "Mk"), "Mk"),
    **{name: name for name in ("CD8 T", "B", "NK", "DC")},
}
# The same names for the sorted cells of Zheng et al.; the stem cells have none and are left out.
ZHENG_LABELS = {
    "B cell": "B",
    "CD4 T cell": "CD4 T",
    "CD8 T cell": "CD8 T",
    "CD14 monocyte": "CD14 Mono",
    "NK cell": "NK",
}
# Coarser names of blood cells, for tasks with the 700 cells that ship with scanpy or with tumours.
COARSE_LABELS = {
    **dict.fromkeys(("CD4 T", "CD8 T", "tT cells", "bT cells", "CD4+/CD25 T Reg", "CD4+/CD45RO+ Memory"), "T"),
    **dict.fromkeys(("CD4+/CD45RA+/CD25- Naive T", "CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic"), "T"),
    **dict.fromkeys(("B", "CD19+ B", "tB cells", "bB cells"), "B"),
    **dict.fromkeys(("NK", "CD56+ NK", "tNK cells", "bNK cells"), "NK"),
    **dict.fromkeys(("CD14 Mono", "CD16 Mono", "CD14+ Monocyte", "bMonocytes"), "Mono"),
    **dict.fromkeys(("DC", "Dendritic"), "DC"),
}
# The type that suites leave out of the reference of each pair.
UNSEEN = {"pbmc": "B", "baron": "alpha", "xin": "alpha"}
# Files of the studies, by the names that suites use.
FILES = {
    "baron": "pancreas_baron_human",
    "baron mouse": "pancreas_baron_mouse",
    "xin": "pancreas_xin_980genes",
    "cell lines": "lung_cancer_celllines_scmixology",
    "lung tumour": "lung_nsclc_zilionis300",
    "breast tumour": "immune_breast_til_spectra_human",
    "lavage": "lung_balf_liao_human",
    "retina": "retina_voigt_human",
    "choroid": "rpe_choroid_voigt_human",
    "heart": "heart_kanemaru_san_human",
    "brain": "brain_dlpfc_tran_human",
    "fetal brain": "brain_fetal_braun_human",
    "3k": "pbmc_10x_3k",
    "kang": "pbmc_kang_ifnb",
    "zheng": "pbmc_zheng_facs_human",
}
# Names of cell types that replace those of a file.
RENAMED = {"3k": PBMC_LABELS, "kang": PBMC_LABELS, "zheng": ZHENG_LABELS}


def read_study(data: Path, name: str) -> AnnData:
    """Return the cells of a study, under the cell type names that studies share.

    Raises
    ------
    DataError
        When the folder lacks the file.
    """
    path = data / f"{FILES[name]}.h5ad"
    if not path.is_file():
        msg = f"{data} has no {path.name}, which this suite needs. Name the folder of the studies with --data."
        raise DataError(msg)
    cells = read_h5ad(path)
    return rename_types(cells, RENAMED[name]) if name in RENAMED else cells


def rename_types(cells: AnnData, names: dict[str, str]) -> AnnData:
    """Return the cells whose label is in ``names``, under the new name of the label."""
    labels = cells.obs[LABEL].astype(str).map(names)
    renamed = cells[labels.notna().to_numpy()].copy()
    renamed.obs[LABEL] = labels.dropna()
    return renamed


def mouse_pancreas(data: Path) -> AnnData:
    """Return the pancreas cells of Baron's mice; gene symbols are in upper case, and repeated symbols are left out."""
    mouse = read_study(data, "baron mouse")
    mouse.var_names = mouse.var_names.str.upper()
    return mouse[:, ~mouse.var_names.duplicated()].copy()


def pbmc_68k() -> AnnData:
    """Return the 700 cells of PBMC 68k that ship with scanpy: log values of 765 genes, and coarse cell types."""
    import scanpy

    cells = scanpy.datasets.pbmc68k_reduced()
    obs = pd.DataFrame({LABEL: cells.obs["bulk_labels"].astype(str)})
    return rename_types(AnnData(sparse.csr_matrix(cells.raw.X), obs=obs, var=cells.raw.var[[]]), COARSE_LABELS)


def split_by(cells: AnnData, column: str) -> dict[str, AnnData]:
    """Split cells by a column of obs: return the cells with each value of the column, by value."""
    values = cells.obs[column].astype(str)
    return {name: cells[(values == name).to_numpy()].copy() for name in sorted(values.unique())}


def cell_line_plates(data: Path) -> dict[str, AnnData]:
    """Return the cells of the lung cancer cell lines by plate."""
    return {
        name.removeprefix("scmix_sc_"): cells
        for name, cells in split_by(read_study(data, "cell lines"), "study").items()
    }


def subsample(cells: AnnData, number: int, seed: int) -> AnnData:
    """Return at most ``number`` of the cells, drawn at random."""
    if cells.n_obs <= number:
        return cells
    chosen = np.random.default_rng(seed).choice(cells.n_obs, number, replace=False)
    return cells[np.sort(chosen)].copy()


def with_frequent_labels(cells: AnnData) -> AnnData:
    """Return the cells of the labels that have enough cells for a reference."""
    counts = cells.obs[LABEL].value_counts()
    return cells[cells.obs[LABEL].isin(counts.index[counts >= CELLS_PER_LABEL]).to_numpy()].copy()


def donor_column(cells: AnnData) -> str | None:
    """Return the column of donors, or None for cells of one donor."""
    return "donor" if "donor" in cells.obs and cells.obs["donor"].nunique() > 1 else None


def load_pair(name: str, data: Path) -> tuple[AnnData, AnnData]:
    """Return the reference and the query of ``pbmc``, ``baron`` or ``xin``, on their shared genes."""
    if name == "pbmc":
        reference, query = read_study(data, "3k"), read_study(data, "kang")
    else:
        reference = read_study(data, "baron")
        if name == "baron":
            is_reference = reference.obs["donor"].isin(["human1", "human3"]).to_numpy()
            reference, query = reference[is_reference].copy(), reference[~is_reference].copy()
        else:
            query = read_study(data, "xin")
    shared = reference.var_names[reference.var_names.isin(query.var_names)]
    return with_frequent_labels(reference)[:, shared].copy(), query[:, shared].copy()


def leave_type_out(reference: AnnData, query: AnnData, left_out: str) -> tuple[AnnData, AnnData]:
    """Return the reference without type ``left_out``, and the query's cells of the remaining types and ``left_out``."""
    kept = with_frequent_labels(reference[reference.obs[LABEL] != left_out])
    return kept, query[query.obs[LABEL].isin([*kept.obs[LABEL].unique(), left_out])].copy()

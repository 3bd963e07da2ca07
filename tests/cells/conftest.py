"""Pancreas cells as counts, logarithms and scaled values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.genes import GeneList, ensembl_ids_of

BARON = Path(__file__).parents[1] / "data" / "pancreas_baron_human3.h5ad"
N_CELLS, N_GENES = 60, 1200


@pytest.fixture(scope="package")
def real() -> AnnData:
    """Return counts of 60 pancreas cells and 1200 genes that have an Ensembl id; the sixth cell is empty."""
    cells = anndata.read_h5ad(BARON)[::15]
    # Keep genes with a current symbol, so that symbols and ids name the same genes.
    ids = ensembl_ids_of(cells.var_names)
    named = [gene_id is not None and "." not in name for name, gene_id in zip(cells.var_names, ids, strict=True)]
    cells = cells[:N_CELLS, np.flatnonzero(named)[::13][:N_GENES]].copy()
    counts = cells.X.toarray().astype(np.float32)
    counts[5] = 0
    return AnnData(sparse.csr_matrix(counts), obs=cells.obs, var=cells.var)


@pytest.fixture(scope="package")
def deep() -> AnnData:
    """Return counts of every third gene in 120 pancreas cells; each cell expresses at least 500 of these genes."""
    cells = anndata.read_h5ad(BARON)[:, ::3].copy()
    rich = np.flatnonzero((cells.X > 0).sum(axis=1) >= 500)[:120]
    return AnnData(sparse.csr_matrix(cells.X[rich], dtype=np.float32), obs=cells.obs.iloc[rich], var=cells.var)


@pytest.fixture(scope="package")
def genes(real: AnnData) -> GeneList:
    """Return every third gene of ``real``, in reverse order."""
    symbols = real.var_names[::3][::-1].tolist()
    return GeneList(tuple(symbols), tuple(ensembl_ids_of(symbols)))


def with_x(cells: AnnData, matrix: Any) -> AnnData:
    return AnnData(matrix, obs=cells.obs.copy(), var=cells.var.copy())


def log_of(cells: AnnData, base: float = np.e, target: float | None = 1e4) -> sparse.csr_matrix:
    counts = cells.X.toarray().astype(np.float64)
    if target is not None:
        counts *= target / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return sparse.csr_matrix((np.log1p(counts) / np.log(base)).astype(np.float32))


def scaled(cells: AnnData) -> npt.NDArray[np.float32]:
    dense = log_of(cells).toarray()
    return np.asarray(dense - dense.mean(axis=0), dtype=np.float32)


def assert_identical(first: AlignedCells, second: AlignedCells) -> None:
    for name in ("data", "indices", "indptr"):
        array, other = getattr(first.values, name), getattr(second.values, name)
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes()
    assert first.totals.tobytes() == second.totals.tobytes()
    assert np.array_equal(first.genes_present, second.genes_present)
    assert np.array_equal(first.empty, second.empty)


def write_zarr(adata: AnnData, path: Path, version: int) -> None:
    """Write the cells to a zarr folder of format 2 or 3."""
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")
        adata.write_zarr(path)


def endless(path: Path) -> None:
    """Damage the global heaps of an HDF5 file, so that the HDF5 library loops without end when it reads the file."""
    content = bytearray(path.read_bytes())
    position = -1
    while (position := content.find(b"GCOL", position + 1)) >= 0:
        # A heap has a header of 16 bytes. The size of the first entry is stored 8 bytes after the header.
        # With this size, the entry ends at its own start.
        content[position + 24 : position + 32] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(content)

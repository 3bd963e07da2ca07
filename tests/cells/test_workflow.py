"""Files of a scanpy workflow are read, and written with all content."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import find_expression
from spikgpt.cells.output import write_copy
from spikgpt.cells.reading import open_cells
from tests.cells.conftest import write_zarr


@pytest.fixture(scope="module")
def analysed(query: AnnData) -> AnnData:
    """Return 90 cells after the usual steps of a scanpy workflow."""
    import scanpy

    cells = query[:90].copy()
    cells.layers["counts"] = cells.X.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.normalize_total(cells, target_sum=1e4)
        scanpy.pp.log1p(cells)
        cells.raw = cells
        scanpy.pp.highly_variable_genes(cells, n_top_genes=200)
        cells = cells[:, cells.var["highly_variable"]].copy()
        scanpy.pp.scale(cells, max_value=10)
        scanpy.pp.pca(cells, n_comps=8)
        scanpy.pp.neighbors(cells, n_neighbors=8, method="gauss")
        cells.obs["leiden"] = pd.Categorical(np.where(cells.obsm["X_pca"][:, 0] > 0, "0", "1"))
        scanpy.tl.rank_genes_groups(cells, "leiden", method="t-test")
        scanpy.tl.dendrogram(cells, "leiden")
    # Write the entries of scanpy.tl.leiden, scanpy.tl.umap and the plots by hand, because these steps compile for long.
    cells.uns |= {
        "leiden": {"params": {"resolution": 1.0, "random_state": 0, "n_iterations": -1}},
        "leiden_colors": ["#1f77b4", "#ff7f0e"],
        "umap": {"params": {"a": 0.58, "b": 1.33, "random_state": None}},
    }
    cells.obsm["X_umap"] = cells.obsm["X_pca"][:, :2].copy()
    cells.obsm["scores"] = pd.DataFrame({"S": np.arange(90.0)}, index=cells.obs_names)
    cells.obs["doublet"] = pd.array([True, None, False] * 30, dtype="boolean")
    cells.obs["passage"] = pd.array([1, None, 3] * 30, dtype="Int64")
    cells.obs["sample"] = pd.Categorical(["a", None, "b"] * 30)
    return cells


def same(first: Any, second: Any) -> bool:
    """Return True if two elements of uns have the same content."""
    if isinstance(first, dict):
        return bool(first.keys() == second.keys()) and all(same(first[key], second[key]) for key in first)
    if sparse.issparse(first):
        return bool((first != second).nnz == 0)
    if isinstance(first, np.ndarray | list):
        return bool(np.asarray(first).tolist() == np.asarray(second).tolist())
    return bool(first is second or first == second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [("a.h5ad", "b.h5ad"), ("a2.zarr", "b.zarr"), ("a3.zarr", "b.zarr"), ("a.h5ad", "b.zarr"), ("a3.zarr", "b.h5ad")],
)
def test_a_scanpy_workflow_is_read_and_written_whole(
    analysed: AnnData, source: str, target: str, tmp_path: Path
) -> None:
    path, out = tmp_path / source, tmp_path / target
    analysed.write_h5ad(path) if path.suffix == ".h5ad" else write_zarr(analysed, path, 2 if "2" in source else 3)
    with open_cells(path) as cells:
        assert find_expression(cells).source in ("layers['counts']", "raw")
        assert cells.obs_names.equals(analysed.obs_names)
    write_copy(path, out, obs={"label": np.arange(90)}, uns={"added": {"none": "text"}})
    written = anndata.read_h5ad(out) if out.suffix == ".h5ad" else anndata.io.read_zarr(out)
    assert written.obs.pop("label").tolist() == list(range(90))
    assert written.uns.pop("added") == {"none": "text"}
    assert {name for name in analysed.uns if not same(analysed.uns[name], written.uns[name])} == set()
    assert set(written.uns) == set(analysed.uns)
    pd.testing.assert_frame_equal(written.obs, analysed.obs)
    pd.testing.assert_frame_equal(written.var, analysed.var)
    for slot in ("layers", "obsm", "varm", "obsp"):
        assert set(getattr(written, slot)) == set(getattr(analysed, slot))
    assert written.raw.shape == analysed.raw.shape
    assert written.uns["log1p"]["base"] is None

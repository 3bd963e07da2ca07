"""h5ad files read and written without anndata are as anndata reads and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import align, find_expression
from spikgpt.cells.genes import genes_of
from spikgpt.cells.h5ad import H5adFile, write_with
from spikgpt.errors import DataError
from tests.conftest import QUERY_FILE

CELLS, GENES = 23, 60


def adata_of(kind: Any) -> AnnData:
    """Return made-up counts with everything that a var frame may hold."""
    random = np.random.default_rng(0)
    counts = random.poisson(0.5, (CELLS, GENES)).astype(np.float32)
    var = pd.DataFrame(index=[f"ENSG{index:011}" for index in range(GENES)])
    var["feature_name"] = pd.Categorical([f"gene {index % 50}" for index in range(GENES)])
    var["symbol"] = pd.array([None if index % 7 == 0 else f"symbol {index}" for index in range(GENES)], dtype="string")
    var["gene_name"] = pd.Series([f"näme {index}" for index in range(GENES)], index=var.index, dtype=object)
    var["length"] = np.arange(GENES)
    obs = pd.DataFrame({"type": ["a", "b"] * 11 + ["a"]}, index=[f"cell {index}" for index in range(CELLS)])
    adata = AnnData(kind(counts), obs=obs, var=var)
    adata.layers["doubled"] = kind(2 * counts)
    adata.raw = adata.copy()
    adata.obsm["X_pca"] = random.random((CELLS, 3))
    return adata


KINDS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_everything_that_annotation_reads_is_as_anndata_has_it(kind: Any, compression: Any, tmp_path: Path) -> None:
    adata = adata_of(kind)
    adata.write_h5ad(tmp_path / "a.h5ad", compression=compression)
    with H5adFile(tmp_path / "a.h5ad") as file:
        assert (file.n_obs, file.n_vars) == adata.shape
        assert file.obs_names[:] == adata.obs_names.tolist()
        assert (file.obs_names[3], file.obs_names[2:4]) == ("cell 3", ["cell 2", "cell 3"])
        assert file.var.index == adata.var_names.tolist()
        assert file.var.columns == adata.var.columns.tolist()
        for column in ("feature_name", "gene_name"):
            assert file.var[column] == adata.var[column].tolist()
        assert file.var["symbol"] == [None if pd.isna(name) else name for name in adata.var["symbol"]]
        assert list(file.layers) == ["doubled"]
        np.testing.assert_array_equal(file.obsm["X_pca"][:], adata.obsm["X_pca"])
        assert file.raw is not None
        assert file.raw.var.index == adata.var_names.tolist()
        matrix: Any
        for matrix, name in ((file.X, "X"), (file.layers["doubled"], "layer"), (file.raw.X, "raw")):
            expected = {"X": adata.X, "layer": adata.layers["doubled"], "raw": adata.raw.X}[name]
            dense = expected.toarray() if sparse.issparse(expected) else expected
            rows = matrix.to_memory().tocsr() if getattr(matrix, "format", "") == "csc" else matrix
            for part in (slice(0, 5), slice(20, 40), np.array([0, 4, 22])):
                found = rows[part]
                np.testing.assert_array_equal(found.toarray() if sparse.issparse(found) else found, dense[part])
        expression = find_expression(file)
        genes = genes_of(file.var)
        assert genes == genes_of(adata.var)
        aligned, reference = align(expression, genes), align(find_expression(adata), genes)
        assert (aligned.values != reference.values).nnz == 0
        np.testing.assert_array_equal(aligned.totals, reference.totals)


def test_names_can_be_read_when_the_file_is_closed_again(tmp_path: Path) -> None:
    adata_of(np.asarray).write_h5ad(tmp_path / "a.h5ad")
    with H5adFile(tmp_path / "a.h5ad") as file:
        names = file.obs_names
    assert names[21:] == ["cell 21", "cell 22"]


def test_real_cells_come_as_anndata_brings_them() -> None:
    adata = anndata.read_h5ad(QUERY_FILE)
    with H5adFile(QUERY_FILE) as file:
        assert file.X is not None
        assert (file.X[0:50] != adata.X[0:50]).nnz == 0
        assert file.var.index == adata.var_names.tolist()


def damaged(path: Path, change: Any) -> Path:
    adata_of(sparse.csr_matrix).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["raw"], file["layers"]
        change(file)
    return path


def test_what_is_damaged_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"

    def read() -> None:
        with H5adFile(path) as file:
            align(find_expression(file), genes_of(file.var))

    with pytest.raises(DataError, match=r"a\.h5ad is no file \(nothing there\)"):
        read()
    path.write_text("text")
    with pytest.raises(DataError, match=r"is no HDF5 file, which every \.h5ad file is"):
        read()
    damaged(path, lambda file: file.pop("var"))
    with pytest.raises(DataError, match=r"is HDF5 but not AnnData: .* lacks var"):
        read()
    damaged(path, lambda file: file["var"].attrs.pop("_index"))
    with pytest.raises(DataError, match=r"cannot be read: .*_index.* damaged or of another layout"):
        read()
    damaged(path, lambda file: file["X"].attrs.modify("encoding-type", "coo_matrix"))
    with pytest.raises(DataError, match="is stored as 'coo_matrix'; expected a dense, CSR or CSC matrix"):
        read()

    def shorten(file: h5py.File) -> None:
        kept = file["X/data"][:-3]
        del file["X/data"]
        file["X/data"] = kept

    damaged(path, shorten)
    with pytest.raises(DataError, match="the sparse matrix /X has"):
        read()

    def beyond(file: h5py.File) -> None:
        file["X/indices"][2] = GENES + 5

    damaged(path, beyond)
    with pytest.raises(DataError, match=f"/X names genes beyond its {GENES}"):
        read()

    def turned(file: h5py.File) -> None:
        file["X/indptr"][3] = file["X/indptr"][-1] + 1

    damaged(path, turned)
    with pytest.raises(DataError, match="The starts of the rows of /X are out of order"):
        read()

    def legacy(file: h5py.File) -> None:
        del file["obs"]
        file["obs"] = np.zeros(CELLS, dtype=[("index", "S4")])

    damaged(path, legacy)
    with pytest.raises(DataError, match=r"as anndata did before version 0\.7"):
        read()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="The file is damaged, incomplete or not readable"):
        read()


def test_what_is_written_anndata_reads(tmp_path: Path) -> None:
    adata_of(sparse.csr_matrix).write_h5ad(tmp_path / "a.h5ad")
    codes = np.arange(CELLS, dtype=np.int16) % 3
    write_with(
        tmp_path / "a.h5ad",
        tmp_path / "deeper" / "b.h5ad",
        {"kind": (codes, ["x", "ÿ", "z"]), "type": codes.astype(np.float32)},
        {"new": np.ones((CELLS, 2), dtype=np.float32)},
        {"notes": {"text": "ünï", "number": 3, "share": 0.5, "yes": True, "names": np.array(["a", "b"], dtype=object)}},
    )
    before, after = anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_h5ad(tmp_path / "deeper" / "b.h5ad")
    assert after.obs.columns.tolist() == ["type", "kind"]
    assert after.obs["kind"].tolist() == [["x", "ÿ", "z"][code] for code in codes]
    assert after.obs["type"].tolist() == codes.tolist()
    np.testing.assert_array_equal(after.obsm["new"], np.ones((CELLS, 2)))
    notes = after.uns["notes"]
    assert (notes["text"], notes["number"], notes["share"], bool(notes["yes"])) == ("ünï", 3, 0.5, True)
    assert notes["names"].tolist() == ["a", "b"]
    assert (after.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(after.var, before.var)

"""Files are read as by anndata, with matrices left on disk, and unreadable files are refused in one line."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import zarr
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, genes_of
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError
from tests.cells.conftest import assert_identical, log_of, scaled, with_x, write_zarr

CELLS, GENES = 23, 60
WRITERS: dict[str, Callable[[AnnData, Path], None]] = {
    "cells.h5ad": lambda adata, path: adata.write_h5ad(path, compression="gzip"),
    "v2.zarr": lambda adata, path: write_zarr(adata, path, 2),
    "v3.zarr": lambda adata, path: write_zarr(adata, path, 3),
}
STORED: dict[str, Callable[[AnnData], Any]] = {
    "dense": lambda cells: cells.X.toarray(),
    "csc": lambda cells: cells.X.tocsc(),
    "csr array": lambda cells: sparse.csr_array(cells.X),
    "big-endian": lambda cells: cells.X.toarray().astype(">f4"),
    "float64": lambda cells: cells.X.astype(np.float64),
}


def adata_of(kind: Any) -> AnnData:
    """Return made-up counts with content in the slots of an AnnData."""
    random = np.random.default_rng(0)
    counts = random.poisson(0.5, (CELLS, GENES)).astype(np.float32)
    var = pd.DataFrame(index=[f"ENSG{index:011}" for index in range(GENES)])
    var["feature_name"] = pd.Categorical([f"gene {index % 50}" for index in range(GENES)])
    var["gene_name"] = pd.Series([f"näme {index}" for index in range(GENES)], index=var.index, dtype=object)
    var["length"] = np.arange(GENES)
    obs = pd.DataFrame({"type": ["a", "b"] * 11 + ["a"]}, index=[f"cell {index}" for index in range(CELLS)])
    adata = AnnData(kind(counts), obs=obs, var=var, uns={"title": "made up"})
    adata.layers["doubled"] = kind(2 * counts)
    adata.raw = adata.copy()
    adata.obsm["X_pca"] = random.random((CELLS, 3))
    return adata


@contextmanager
def opened(adata: AnnData, path: Path) -> Iterator[Any]:
    WRITERS[path.name](adata, path)
    with open_cells(path) as cells:
        yield cells


def rows_of(matrix: Any, index: Any) -> Any:
    part = matrix[index]
    return part.toarray() if sparse.issparse(part) else part


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_all_content_equals_that_of_anndata(kind: Any, name: str, tmp_path: Path) -> None:
    adata = adata_of(kind)
    with opened(adata, tmp_path / name) as cells:
        assert (cells.n_obs, cells.n_vars) == adata.shape
        pd.testing.assert_frame_equal(cells.obs, adata.obs)
        pd.testing.assert_frame_equal(cells.var, adata.var)
        assert cells.obs_names.equals(adata.obs_names)
        assert (list(cells.layers), list(cells.obsm), "X_umap" in cells.obsm) == (["doubled"], ["X_pca"], False)
        np.testing.assert_array_equal(cells.obsm["X_pca"], adata.obsm["X_pca"])
        assert cells.uns == {"title": "made up"}
        pd.testing.assert_frame_equal(cells.raw.var, adata.raw.var)
        pairs = ((cells.X, adata.X), (cells.layers["doubled"], adata.layers["doubled"]), (cells.raw.X, adata.raw.X))
        for matrix, expected in pairs:
            assert not isinstance(matrix, np.ndarray | sparse.spmatrix)
            for part in (slice(0, 5), slice(20, 40), slice(3, 3), np.array([0, 4, 22])):
                np.testing.assert_array_equal(rows_of(matrix, part), rows_of(expected, part))
        genes = genes_of(cells.var)
        assert_identical(align(find_expression(cells), genes), align(find_expression(adata), genes))


def assert_no_bit_changes(real: AnnData, genes: GeneList, tmp_path: Path, stored: str, name: str, values: str) -> None:
    cells = with_x(real, {"counts": real.X, "log": log_of(real), "linear": log_of(real).expm1()}[values])
    expected = align(find_expression(cells), genes)
    assert expected.kind == values
    with opened(with_x(cells, STORED[stored](cells)), tmp_path / name) as stored_cells:
        assert_identical(align(find_expression(stored_cells), genes), expected)
    assert_identical(align(find_expression(read_cells(tmp_path / name)), genes), expected)


@pytest.mark.parametrize(
    ("stored", "name", "values"),
    [
        *((stored, "cells.h5ad", "counts") for stored in STORED),
        ("csc", "cells.h5ad", "log"),
        ("dense", "cells.h5ad", "linear"),
        ("dense", "v2.zarr", "counts"),
        ("csr array", "v3.zarr", "log"),
    ],
)
def test_storage_changes_no_bit(
    real: AnnData, genes: GeneList, tmp_path: Path, stored: str, name: str, values: str
) -> None:
    assert_no_bit_changes(real, genes, tmp_path, stored, name, values)


@pytest.mark.slow
def test_all_storages_of_all_kinds_of_values_change_no_bit(real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    kinds = [("cells.h5ad", "counts"), ("cells.h5ad", "log"), ("cells.h5ad", "linear")]
    for name, values in [*kinds, ("v2.zarr", "counts"), ("v3.zarr", "log")]:
        for stored in STORED:
            (folder := tmp_path / values / stored).mkdir(parents=True, exist_ok=True)
            assert_no_bit_changes(real, genes, folder, stored, name, values)


def test_a_sparse_matrix_in_the_other_byte_order_is_read(real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    real.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        for part in ("data", "indices", "indptr"):
            values = file["X"][part][:]
            del file["X"][part]
            file["X"][part] = values.astype(values.dtype.newbyteorder(">"))
    expected = align(find_expression(real), genes)
    with open_cells(tmp_path / "cells.h5ad") as cells:
        assert_identical(align(find_expression(cells), genes), expected)
    assert_identical(align(find_expression(read_cells(tmp_path / "cells.h5ad")), genes), expected)


def test_small_counts_in_16_bits_change_no_bit(real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    small = with_x(real, real.X.minimum(99))
    with opened(with_x(small, small.X.toarray().astype(np.float16)), tmp_path / "cells.h5ad") as cells:
        assert_identical(align(find_expression(cells), genes), align(find_expression(small), genes))


@pytest.mark.parametrize("stored", ["dense", "csc", "csr array"])
def test_backed_mode_changes_no_bit(real: AnnData, genes: GeneList, tmp_path: Path, stored: str) -> None:
    with_x(real, STORED[stored](real)).write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert_identical(align(find_expression(backed), genes), align(find_expression(real), genes))
    backed.file.close()


@pytest.mark.parametrize("name", ["cells.h5ad", "v3.zarr"])
def test_raw_on_disk_changes_no_bit(real: AnnData, genes: GeneList, tmp_path: Path, name: str) -> None:
    cells = real.copy()
    cells.raw = real.copy()
    cells.X = scaled(real)
    with opened(cells, tmp_path / name) as stored_cells:
        expression = find_expression(stored_cells)
        assert expression.source == "raw"
        assert_identical(align(expression, genes), align(find_expression(real), genes))


@pytest.mark.parametrize("name", ["cells.h5ad", "v2.zarr"])
def test_repeated_names_are_read_without_a_warning(real: AnnData, genes: GeneList, tmp_path: Path, name: str) -> None:
    repeated = real.copy()
    repeated.var_names = [*real.var_names[:-2], "extra", "extra"]
    repeated.obs_names = ["cell"] * real.n_obs
    expected = align(find_expression(real), genes)
    with opened(repeated, tmp_path / name) as cells:
        assert_identical(align(find_expression(cells), genes), expected)
    assert_identical(align(find_expression(read_cells(tmp_path / name)), genes), expected)


@pytest.mark.slow
def test_memory_does_not_grow_with_layers_and_raw(tmp_path: Path) -> None:
    counts = sparse.random(20_000, 500, 0.2, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(10 * counts.data)
    adata = AnnData(counts, layers={"counts": counts, "other": counts.copy()})
    adata.raw = adata.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    tracemalloc.start()
    with open_cells(tmp_path / "cells.h5ad") as cells:
        find_expression(cells).rows(0, 4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.8 * counts.data.nbytes * 2  # one matrix is 16 MB, the file 64 MB


def test_files_from_before_anndata_0_7_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    counts = random.poisson(1.0, (5, 3)).astype(np.float32)
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["X"] = counts
        file["obs"] = np.array(
            [(f"cell {row}".encode(), row) for row in range(5)], dtype=[("index", "S6"), ("n", "i4")]
        )
        file["var"] = np.array([(f"gene {row}".encode(),) for row in range(3)], dtype=[("index", "S6")])
    with open_cells(tmp_path / "old.h5ad") as cells:
        assert cells.obs_names.tolist() == [f"cell {row}" for row in range(5)]
        np.testing.assert_array_equal(find_expression(cells).rows(0, 5).toarray(), counts)


# --- other kinds of files --------------------------------------------------------------------------------------------


def write_10x(adata: AnnData, path: Path) -> None:
    """Write the cells in the file or folder layout of Cell Ranger 3, with one antibody as the last feature."""
    counts = sparse.csc_matrix(sparse.hstack([adata.X, np.ones((adata.n_obs, 1))]).T).astype(np.int32)
    ids, kinds = [*adata.var_names, "CD3"], ["Gene Expression"] * adata.n_vars + ["Antibody Capture"]
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            matrix = file.create_group("matrix")
            for name, values in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
                matrix[name] = values
            matrix["shape"] = counts.shape
            matrix["barcodes"] = adata.obs_names.to_numpy().astype("S")
            for name, texts in (("id", ids), ("name", ids), ("feature_type", kinds), ("genome", ["GRCh38"] * len(ids))):
                matrix[f"features/{name}"] = np.array(texts, dtype="S")
        return
    path.mkdir()
    with gzip.open(path / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, counts)
    with gzip.open(path / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"{name}\n" for name in adata.obs_names)
    with gzip.open(path / "features.tsv.gz", "wt") as file:
        file.writelines(f"{name}\t{name}\t{kind}\n" for name, kind in zip(ids, kinds, strict=True))


def prefixed(adata: AnnData, path: Path) -> None:
    write_10x(adata, path.parent)
    for file in list(path.parent.iterdir()):
        file.rename(file.with_name(f"GSM1_{file.name}"))


def zipped(adata: AnnData, path: Path) -> None:
    plain = path.with_suffix("")
    adata.write_h5ad(plain) if plain.suffix == ".h5ad" else adata.to_df().to_csv(plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


OTHERS: dict[str, Callable[[AnnData, Path], None]] = {
    "10x.h5": write_10x,
    "folder": write_10x,
    "prefixed/GSM1_matrix.mtx.gz": prefixed,
    "cells.h5ad.gz": zipped,
    "table.csv.gz": zipped,
    "table.csv": lambda adata, path: adata.to_df().to_csv(path),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_files_are_read_to_the_bit(name: str, real: AnnData, tmp_path: Path) -> None:
    OTHERS[name](real, tmp_path / name)
    genes = genes_of(real.var)
    with open_cells(tmp_path / name) as cells:
        assert cells.obs_names.equals(real.obs_names)
        assert_identical(align(find_expression(cells), genes), align(find_expression(real), genes))
    assert len(find_expression(read_cells(tmp_path / name)).var) == real.n_vars


@pytest.mark.slow
def test_other_kinds_of_files_need_neither_scanpy_nor_torch(real: AnnData, tmp_path: Path) -> None:
    for name in OTHERS:
        OTHERS[name](real, tmp_path / name)
    code = (
        "import sys; sys.modules['scanpy'] = sys.modules['torch'] = None\n"
        "from spikgpt.cells.reading import read_cells\n"
        "print(*{read_cells(name).n_obs for name in sys.argv[1:]})"
    )
    paths = [tmp_path / name for name in OTHERS]
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == (str(real.n_obs), "")


# --- refusing --------------------------------------------------------------------------------------------------------


def assert_refused(path: Path, match: str) -> None:
    """Assert that open_cells and read_cells refuse a file with a message of one line."""

    def opened() -> None:
        with open_cells(path) as cells:
            find_expression(cells).rows(0, cells.n_obs)

    for read in (opened, lambda: find_expression(read_cells(path))):
        with pytest.raises(DataError, match=match) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_files_without_cells_are_refused(few: AnnData, tmp_path: Path) -> None:
    assert_refused(
        tmp_path / "none.h5ad", r"none\.h5ad is not there; give an \.h5ad file, a \.zarr folder, a 10x \.h5 file"
    )
    assert_refused(tmp_path, r"is a folder with none; give an \.h5ad file")
    (tmp_path / "text.h5ad").write_text("cell,gene\n")
    assert_refused(tmp_path / "text.h5ad", r"text\.h5ad is no HDF5 file, which every \.h5ad file is; give")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("matrix")
    assert_refused(
        tmp_path / "other.h5", r"is HDF5 but neither AnnData nor 10x: it has matrix and lacks obs, var; give"
    )
    few.write_h5ad(tmp_path / "half.h5ad")
    (tmp_path / "half.h5ad").write_bytes((tmp_path / "half.h5ad").read_bytes()[:-1000])
    assert_refused(
        tmp_path / "half.h5ad", r"half\.h5ad cannot be read: .*truncated.* cut short: \d+ of \d+ bytes are there\. Copy"
    )
    zipped(few, tmp_path / "half.h5ad.gz")
    (tmp_path / "half.h5ad.gz").write_bytes((tmp_path / "half.h5ad.gz").read_bytes()[:-1000])
    assert_refused(tmp_path / "half.h5ad.gz", r"half\.h5ad\.gz cannot be unpacked: Compressed file ended")
    (tmp_path / "bare.zarr").mkdir()
    assert_refused(
        tmp_path / "bare.zarr", r"bare\.zarr cannot be read: .*no metadata of zarr: no zarr\.json and no \.zgroup"
    )


def shorten(group: Any) -> None:
    kept = group["data"][:-3]
    del group["data"]
    group["data"] = kept


def put(name: str, index: int, value: int) -> Callable[[Any], None]:
    def change(root: Any) -> None:
        root[name][index] = value

    return change


def legacy_names(root: Any) -> None:
    root["obs"].attrs["_index"] = "type"
    del root["obs/type"]


def longer(root: Any) -> None:
    names = root["obs/_index"]
    attributes = dict(names.attrs)
    del root["obs/_index"]
    root["obs"].create_dataset("_index", data=[f"cell {row}" for row in range(CELLS + 1)]).attrs.update(attributes)


DAMAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no var": (lambda root: root.__delitem__("var"), "it has .* and lacks var"),
    "no column": (legacy_names, "cannot be read: "),
    "names of another length": (longer, r"cannot be read: .*(Length of values|must all be same length|does not match)"),
    "another encoding": (lambda root: root["X"].attrs.modify("encoding-type", "coo_matrix"), "cannot be read: .*coo"),
    "another shape": (
        lambda root: root["X"].attrs.modify("shape", (CELLS, 9)),
        "must have as many rows as|holds values in columns 0 to 59",
    ),
    "values missing": (lambda root: shorten(root["X"]), r"X has data of shape .* and indices of shape"),
    "columns too large": (put("X/indices", 2, GENES), "X holds values in columns 0 to 60; it has columns 0 to 59"),
    "columns negative": (put("X/indices", 2, -1), "X holds values in columns -1 to 59"),
    "starts too large": (put("X/indptr", 3, 10**6), "X has row starts from 0 to .* out of order"),
    "starts that end early": (put("X/indptr", CELLS, 9), "X has row starts from 0 to 9 for"),
    "starts that begin late": (put("X/indptr", 0, 1), "X has row starts from 1 to"),
    "no starts": (lambda root: root["X"].__delitem__("indptr"), "cannot be read: .*indptr"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    change, match = DAMAGES[damage]
    adata = adata_of(sparse.csr_matrix)
    adata.raw = None
    del adata.layers["doubled"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        change(file)
    assert_refused(tmp_path / "a.h5ad", match)


def test_raw_is_read_if_x_is_damaged(tmp_path: Path) -> None:
    adata = adata_of(sparse.csr_matrix)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][2] = GENES
    with open_cells(tmp_path / "a.h5ad") as cells:
        expression = find_expression(cells)
        assert expression.source == "raw"
        assert expression.notes[0].startswith("X cannot be used (")


@pytest.mark.parametrize("missing", ["X/indices/0", "X/data/0", "obs/_index/0", "var/_index/0"])
def test_a_partly_copied_zarr_folder_is_refused(missing: str, tmp_path: Path) -> None:
    write_zarr(adata_of(sparse.csr_matrix), tmp_path / "v2.zarr", 2)
    (tmp_path / "v2.zarr" / missing).unlink()
    assert_refused(tmp_path / "v2.zarr", "1 chunks (of its names )?missing")


def test_a_damaged_matrix_in_memory_is_refused() -> None:
    adata = adata_of(sparse.csr_matrix)
    adata.raw = None
    adata.X.indices[5] = GENES + 10**6
    with pytest.raises(DataError, match="X cannot be used .The expression matrix holds values in columns 0 to 1000060"):
        find_expression(adata)


def test_10x_files_with_indices_out_of_range_are_refused(real: AnnData, tmp_path: Path) -> None:
    write_10x(real, tmp_path / "10x.h5")
    with h5py.File(tmp_path / "10x.h5", "r+") as file:
        file["matrix/indices"][5] = 10**6
    assert_refused(tmp_path / "10x.h5", "X holds values in columns 1 to 1000000")
    write_10x(real, tmp_path / "folder")
    with gzip.open(tmp_path / "folder" / "matrix.mtx.gz", "wt") as file:
        file.write("%%MatrixMarket matrix coordinate integer general\n%\n99999999999 60 1\n1 1 1\n")
    assert_refused(
        tmp_path / "folder", r"matrix\.mtx\.gz has 99999999999 rows and 60 columns; the lists .* barcodes\.tsv\.gz 60"
    )


def test_unreadable_files_are_refused(few: AnnData, tmp_path: Path) -> None:
    few.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").chmod(0)
    if os.access(tmp_path / "a.h5ad", os.R_OK):
        pytest.skip("root reads everything")
    assert_refused(tmp_path / "a.h5ad", "Permission denied")


def test_a_zarr_folder_without_consolidated_metadata_is_read(tmp_path: Path) -> None:
    adata = adata_of(sparse.csr_matrix)
    write_zarr(adata, tmp_path / "a.zarr", 2)
    (tmp_path / "a.zarr" / ".zmetadata").unlink()
    assert read_cells(tmp_path / "a.zarr").shape == adata.shape
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "without a suffix")
    assert read_cells(tmp_path / "without a suffix").shape == adata.shape
    assert zarr.open_group(tmp_path / "a.zarr", mode="r").metadata.consolidated_metadata is None

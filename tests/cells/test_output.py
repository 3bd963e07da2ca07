"""Copies hold all content of the input, and anndata opens the copies; tables hold a row for each cell."""

from __future__ import annotations

import errno
import gzip
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from spikgpt import Annotation
from spikgpt.cells import matrices, stored
from spikgpt.cells.output import write_copy, write_table
from spikgpt.cells.reading import read_cells
from spikgpt.cells.storage import identity_of
from spikgpt.errors import FAULTS, DataError, SpikGPTWarning
from tests.cells.conftest import write_zarr

N_CELLS = 12
ADDED: Any = {
    "obs": {
        "label": pd.Categorical(["a", "ÿ", None] * 4),
        "kind": pd.Series(["x", "y"] * 6, dtype=object),
        "share": np.linspace(0, 1, N_CELLS, dtype=np.float32),
    },
    "obsm": {"X_new": np.ones((N_CELLS, 2), dtype=np.float32)},
    "uns": {"notes": {"text": "ünï", "number": 3, "yes": True, "names": np.array(["a", "b"], dtype=object)}},
}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full() -> AnnData:
    """Return made-up cells with content in every slot of an AnnData."""
    random = np.random.default_rng(0)
    counts = sparse.csr_matrix(random.poisson(2, (N_CELLS, 7)).astype(np.float32))
    obs = pd.DataFrame({"kind": ["a", "b"] * 6, "n": np.arange(12)}, index=[f"cell {row}" for row in range(12)])
    var = pd.DataFrame(index=[f"gene {column}" for column in range(7)])
    adata = AnnData(counts, obs=obs, var=var, uns={"title": "made up", "deep": {"er": np.arange(3)}})
    adata.raw = adata.copy()
    adata.layers["columns"], adata.layers["dense"] = counts.tocsc(), counts.toarray()
    adata.obsp["distances"] = sparse.csr_matrix(random.random((12, 12)))
    adata.varm["PCs"], adata.obsm["X_pca"] = random.random((7, 2)), random.random((12, 2))
    return adata


def written(adata: AnnData, path: Path) -> Path:
    if path.suffix == ".zarr":
        write_zarr(adata, path, 2 if "2" in path.name else 3)
    else:
        adata.write_h5ad(path, compression="gzip")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def anndata_reads(path: Path) -> AnnData:
    return anndata.io.read_zarr(path) if path.is_dir() else anndata.io.read_h5ad(path)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a.h5ad", "b.h5ad"),
        ("a2.zarr", "b.zarr"),
        ("a3.zarr", "b.zarr"),
        ("a.h5ad", "b.zarr"),
        ("a2.zarr", "b.h5ad"),
        ("table.csv", "b.h5ad"),
    ],
)
def test_a_copy_holds_the_input_and_the_additions(full: AnnData, source: str, target: str, tmp_path: Path) -> None:
    if source == "table.csv":
        full.to_df().to_csv(tmp_path / source)
    else:
        written(full, tmp_path / source)
    before = read_cells(tmp_path / source)
    path = tmp_path / "deeper" / target
    write_copy(tmp_path / source, path, **ADDED)
    after = anndata_reads(path)
    order = [*before.obs.columns, *(name for name in ADDED["obs"] if name not in before.obs)]
    assert after.obs.columns.tolist() == order
    assert after.obs["label"].tolist()[:2] == ["a", "ÿ"]
    assert after.obs["kind"].astype(str).tolist() == ["x", "y"] * 6
    np.testing.assert_array_equal(after.obs["share"], ADDED["obs"]["share"])
    np.testing.assert_array_equal(after.obsm["X_new"], ADDED["obsm"]["X_new"])
    assert (after.uns["notes"]["text"], after.uns["notes"]["number"]) == ("ünï", 3)
    for slot in ("layers", "obsp", "varm", "uns"):
        assert set(getattr(before, slot)) <= set(getattr(after, slot))
    assert before.obs_names.equals(after.obs_names)
    pd.testing.assert_frame_equal(after.var, before.var)
    assert (sparse.csr_matrix(after.X) != sparse.csr_matrix(before.X)).nnz == 0
    assert leftovers(path.parent) == [target]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a.h5ad", "b.h5ad"),
        pytest.param("a2.zarr", "b.zarr", marks=pytest.mark.slow),
        ("a3.zarr", "b.zarr"),
        pytest.param("a.h5ad", "b.zarr", marks=pytest.mark.slow),
    ],
)
def test_null_elements_are_copied(full: AnnData, source: str, target: str, tmp_path: Path) -> None:
    full.uns |= {"log1p": {"base": None}, "pca": {"params": {"layer": None, "use_highly_variable": True}}, "no": None}
    write_copy(written(full, tmp_path / source), tmp_path / target, **ADDED)
    uns = anndata_reads(tmp_path / target).uns
    assert uns["log1p"]["base"] is uns["pca"]["params"]["layer"] is uns["no"] is None
    assert uns["notes"]["number"] == 3


@pytest.mark.parametrize("version", [2, 3])
def test_other_files_of_a_folder_are_copied_byte_by_byte(full: AnnData, version: int, tmp_path: Path) -> None:
    source, target = written(full, tmp_path / f"a{version}.zarr"), tmp_path / "b.zarr"
    write_copy(source, target, **ADDED)
    before, after = files_of(source), files_of(target)
    changed = {name for name, content in before.items() if after.get(name) != content}
    assert {name for name in changed if not name.startswith("obs/kind")} <= {
        ".zmetadata",
        "zarr.json",
        "obs/.zattrs",
        "obs/zarr.json",
    }
    assert zarr.open_group(target, mode="r").metadata.consolidated_metadata is not None
    assert "label" in anndata_reads(target).obs


def test_a_copy_has_consolidated_metadata_only_if_the_source_has(full: AnnData, tmp_path: Path) -> None:
    source = written(full, tmp_path / "a2.zarr")
    (source / ".zmetadata").unlink()
    write_copy(source, tmp_path / "b.zarr", **ADDED)
    assert not (tmp_path / "b.zarr" / ".zmetadata").exists()
    assert "label" in anndata_reads(tmp_path / "b.zarr").obs


def test_the_index_of_the_cells_is_not_replaced(full: AnnData, tmp_path: Path) -> None:
    full.obs.index.name = "label"
    source = written(full, tmp_path / "a.h5ad")
    with pytest.raises(DataError, match=r"keeps the names of its cells in obs\['label'\], which would be replaced"):
        write_copy(source, tmp_path / "b.h5ad", obs=ADDED["obs"])
    assert leftovers(tmp_path) == ["a.h5ad"]


RACES: dict[str, tuple[str, str]] = {
    "h5ad": ("a.h5ad", "b.h5ad"),
    "zarr": ("a3.zarr", "b.zarr"),
    "to the other format": ("a.h5ad", "b.zarr"),
    "gzip": ("a.h5ad.gz", "b.h5ad"),
    "table": ("a.csv", "b.h5ad"),
}


@pytest.mark.parametrize(
    ("race", "replaced"),
    [
        *((race, "another order") for race in ("h5ad", "gzip", "table")),
        ("h5ad", "the same names"),
        ("h5ad", "in place"),
        ("zarr", "in place"),
        *(pytest.param(race, "another order", marks=pytest.mark.slow) for race in ("zarr", "to the other format")),
        pytest.param("zarr", "the same names", marks=pytest.mark.slow),
    ],
)
def test_a_source_that_was_replaced_since_it_was_read_is_refused(
    full: AnnData, race: str, replaced: str, tmp_path: Path
) -> None:
    source, target = (tmp_path / name for name in RACES[race])

    def write(adata: AnnData, path: Path) -> None:
        if path.suffix == ".csv":
            adata.to_df().to_csv(path)
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress(written(adata, tmp_path / "plain.h5ad").read_bytes()))
        else:
            written(adata, path)

    write(full, source)
    identity, names = identity_of(source), read_cells(source).obs_names
    other = full[::-1].copy()
    if replaced != "another order":
        other.obs_names = full.obs_names
    if replaced == "in place":
        write(other, source)
    else:
        (tmp_path / "new").mkdir()
        write(other, tmp_path / "new" / source.name)
        shutil.rmtree(source) if source.is_dir() else None
        (tmp_path / "new" / source.name).replace(source)
    same = {"identity": identity, "obs_names": names}
    for known in (same, *([{"obs_names": names}] if replaced == "another order" else [])):
        with pytest.raises(DataError, match=rf"{source.name} (was changed or replaced|now holds 12 other cells)"):
            write_copy(source, target, **ADDED, **known)
    assert not target.exists()
    write_copy(source, target, **ADDED, identity=identity_of(source), obs_names=read_cells(source).obs_names)
    assert target.exists()


def alter(name: str, index: int, value: int) -> Callable[[Any], None]:
    def change(root: Any) -> None:
        root[name][index] = value

    return change


def rename(root: Any) -> None:
    root["layer"] = root["layers"]
    del root["layers"]


DAMAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a layer": (alter("layers/columns/indices", 0, 99), r"/layers/columns holds values in columns 0 to 99"),
    "obsp": (alter("obsp/distances/indices", 0, -9), r"/obsp/distances holds values in columns -9 to 11"),
    "raw": (alter("raw/X/indices", 0, 99), r"/raw/X holds values in columns 0 to 99"),
    "varm": (
        lambda root: root["varm/PCs"].attrs.modify("encoding-type", "csr_matrix"),
        r"cannot be read as a whole: .*'PCs'",
    ),
    "uns": (
        lambda root: root["uns/title"].attrs.modify("encoding-type", "text"),
        r"cannot be read as a whole: .*'title'",
    ),
    "the names of elements": (rename, r"cannot be read as a whole: .*unexpected keyword argument 'layer'"),
    "the shape of obsp": (
        lambda root: root["obsp/distances"].attrs.modify("shape", (12, 13)),
        "cannot be read as a whole: .*obsp",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_elements_that_anndata_cannot_read_are_copied_with_a_warning(
    full: AnnData, damage: str, tmp_path: Path
) -> None:
    source = written(full, tmp_path / "a.h5ad")
    change, match = DAMAGES[damage]
    with h5py.File(source, "r+") as file:
        change(file)
    with pytest.warns(SpikGPTWarning, match=match) as caught:
        write_copy(source, tmp_path / "b.h5ad", **ADDED)
    assert "\n" not in str(caught[0].message)
    with h5py.File(tmp_path / "b.h5ad") as file:
        assert read_elem(file["obs"])["label"].tolist()[:2] == ["a", "ÿ"]


@pytest.mark.parametrize("name", ["a.h5ad", "a3.zarr"])
def test_large_matrices_are_checked_a_part_at_a_time(
    full: AnnData, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BLOCK_BYTES", 50)
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 7)
    source, target = written(full, tmp_path / name), tmp_path / f"b{Path(name).suffix}"
    write_copy(source, target, **ADDED)
    np.testing.assert_array_equal(anndata_reads(target).layers["dense"], full.layers["dense"])


def test_a_target_that_cannot_be_written_is_refused_in_one_line(full: AnnData, tmp_path: Path) -> None:
    source = written(full, tmp_path / "a.h5ad")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"b\.h5ad cannot be written: .*(Not a directory|exists)"):
        write_copy(source, tmp_path / "file" / "b.h5ad", **ADDED)


def test_a_csv_file_has_the_expected_lines(annotation: Annotation, tmp_path: Path) -> None:
    write_table(annotation.table_chunks(), tmp_path / "labels.csv")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == (
        "cell,spikgpt_label,spikgpt_best_label,spikgpt_label_broad,spikgpt_ontology_term_id,"
        "spikgpt_ontology_label,spikgpt_confidence,spikgpt_typicality,spikgpt_familiarity,"
        "probability of alpha,probability of beta"
    )
    assert lines[1] == "cell 0,Unknown,alpha,Unknown,unknown,unknown,0.1,0.05,0.05,0.1,0.9"
    term = "CL:0008024,pancreatic endocrine cell"
    assert lines[-1] == f"cell 11,beta,beta,islet cell,{term},0.95,0.475,0.475,0.95,0.050000012"
    assert len(lines) == 1 + N_CELLS


def test_parquet_holds_the_table(annotation: Annotation, tmp_path: Path) -> None:
    write_table(annotation.table_chunks(), tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "labels.parquet"), annotation.table())


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
sys.modules["fastparquet"] = None
import pickle
from pathlib import Path
from spikgpt.errors import ConfigError
from spikgpt.cells.output import write_table
try:
    write_table(pickle.loads(Path("annotation").read_bytes()).table_chunks(), Path("labels.parquet"))
except ConfigError as error:
    sys.exit(str(error))
"""


def test_parquet_without_pyarrow_names_the_package_to_install(annotation: Annotation, tmp_path: Path) -> None:
    # pandas remembers that pyarrow was imported, so the test runs in a separate process.
    (tmp_path / "annotation").write_bytes(pickle.dumps(annotation))
    run = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW], cwd=tmp_path, capture_output=True, text=True)
    assert run.stderr == ("Writing parquet needs pyarrow: pip install 'pyarrow>=15'. Or write a .csv file.\n")
    assert run.returncode == 1
    assert leftovers(tmp_path) == ["annotation"]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.gz", "a.tsv", "a.b.Tsv.GZ", "a.PARQUET"])
def test_the_suffix_sets_the_format_of_a_table_and_the_bytes_are_reproducible(
    annotation: Annotation, name: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "1" / name, tmp_path / "2" / name
    for path in (first, second):
        write_table(annotation.table_chunks(), path)
    assert first.read_bytes() == second.read_bytes()
    if name.endswith("PARQUET"):
        table = pd.read_parquet(first)
    else:
        compression: Any = "gzip" if name.lower().endswith("gz") else None
        separator = "\t" if "tsv" in name.lower() else ","
        table = pd.read_csv(first, sep=separator, compression=compression, index_col=0)
    assert table.columns.tolist() == annotation.table().columns.tolist()
    assert table["spikgpt_label"].tolist() == annotation.labels.tolist()


def test_no_text_of_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    label = pd.Categorical(["=HYPERLINK(1)", "beta", "@x"])
    cells = pd.DataFrame(
        {"+label": label, "score": [-1.5, 2, 3], "note": ["-1", "a=b", None]}, index=["=1", "c", "\td"]
    )
    write_table([cells], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        ",'+label,score,note",
        "'=1,'=HYPERLINK(1),-1.5,-1",
        "c,beta,2.0,a=b",
        "'\td,'@x,3.0,",
    ]


FORMULAS = [
    "=cmd",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "@SUM(A1)",
    "-CD4",
    "-e5",
    "+1-1",
    "-1\n=cmd",
    "\n=cmd",
    "\r=cmd",
    "\uff1dcmd",
]
KEPT = ["-1", "+1", "-", "+", "-1.5e-3", "-.5", "CD4+", "a=b", "a\nb", "a\r\nb", "a\rb", 'a "b", c', "\u03b2", " x"]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz"])
def test_formulas_are_escaped_and_other_texts_are_unchanged(name: str, tmp_path: Path) -> None:
    texts = FORMULAS + KEPT
    rows = pd.DataFrame(
        {"kind": pd.Categorical(texts), "text": texts}, index=[f"cell {row}" for row in range(len(texts))]
    )
    write_table([rows, rows], tmp_path / name)
    separator = "\t" if "tsv" in name else ","
    table = pd.read_csv(tmp_path / name, sep=separator, index_col=0, dtype=str, keep_default_na=False)
    expected = [f"'{text}" for text in FORMULAS] + KEPT
    for column in ("kind", "text"):
        assert table[column].tolist() == 2 * expected


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_limit_on_the_size_of_files_is_named_and_leaves_no_partial_file(full: AnnData, tmp_path: Path) -> None:
    code = """if True:
        import resource, sys
        from pathlib import Path
        import numpy as np, pandas as pd
        from spikgpt.cells.output import write_copy, write_table
        from spikgpt.errors import fault
        source, *targets = map(Path, sys.argv[1:])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        for target in targets:
            try:
                if target.suffix == ".csv":
                    write_table([pd.DataFrame({"a": np.arange(10000.)})], target)
                else:
                    write_copy(source, target, obsm={"x": np.random.random((12, 100))})
            except Exception as error:
                print(type(error).__name__, fault(error), str(error).count(chr(10)))
    """
    source = tmp_path / "cells.h5ad"
    full.write_h5ad(source)
    targets = [tmp_path / name for name in ("out.h5ad", "out.zarr", "labels.csv")]
    run = subprocess.run([sys.executable, "-c", code, source, *targets], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        f"{kind} {FAULTS[errno.EFBIG]} 0" for kind in ("DataError", "DataError", "OSError")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]

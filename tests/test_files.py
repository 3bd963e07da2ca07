"""Tables hold a row a cell, in the formats that are offered."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import Annotation
from spikgpt.errors import ConfigError
from spikgpt.files import check_table, write_table
from spikgpt_onnx.embedding import EmbeddingReport

N_CELLS, N_GENES = 12, 7


@pytest.fixture
def annotation() -> Annotation:
    confidence = np.linspace(0.1, 0.95, N_CELLS).astype(np.float32)
    return Annotation(
        cells=pd.Index([f"cell {row}" for row in range(N_CELLS)]),
        best=np.arange(N_CELLS, dtype=np.int16) % 2,
        rejected=confidence < 0.5,
        confidence=confidence,
        probabilities=np.stack([confidence, 1 - confidence], axis=1),
        empty=np.zeros(N_CELLS, dtype=bool),
        label_names=("alpha", "beta"),
        reference_origin=None,
        threshold=0.5,
        neighbours=True,
        reference_name="hand-made",
        report=EmbeddingReport("X", "counts", "reference", 5, 7),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a file with something in every place an AnnData has."""
    random = np.random.default_rng(0)
    counts = random.poisson(2, (N_CELLS, N_GENES))
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["b", "a"] * (N_CELLS // 2), categories=["b", "a"], ordered=True),
            "depth": random.random(N_CELLS),
            "note": ["text"] * N_CELLS,
            "flag": pd.array([True, None] * (N_CELLS // 2), dtype="boolean"),
        },
        index=[f"cell {row}" for row in range(N_CELLS)],
    )
    full = AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))
    adata = full[:, :5].copy()
    adata.raw = full
    adata.layers["dense"] = adata.X.toarray().astype(np.float64)
    adata.layers["columns"] = sparse.csc_matrix(adata.X).astype(np.float32)
    adata.obsm["X_umap"] = random.random((N_CELLS, 2))
    adata.varm["PCs"] = random.random((5, 3))
    adata.obsp["distances"] = sparse.csr_matrix(random.random((N_CELLS, N_CELLS)))
    adata.uns["type_colors"] = np.array(["#000000", "#ffffff"], dtype=object)
    adata.uns["nested"] = {"deeper": {"number": 3.5, "name": "x"}}
    path = tmp_path / "query.h5ad"
    adata.write_h5ad(path, compression="gzip")
    return path


def write(annotation: Annotation, source: Path, target: Path) -> None:
    annotation.write_h5ad(source, target)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_csv_by_content(annotation: Annotation, tmp_path: Path) -> None:
    write_table(annotation, tmp_path / "labels.csv")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == (
        "cell,spikgpt_label,spikgpt_best_label,spikgpt_confidence,probability of alpha,probability of beta"
    )
    assert lines[1] == "cell 0,Unknown,alpha,0.1,0.1,0.9"
    assert lines[-1] == "cell 11,beta,beta,0.95,0.95,0.050000012"
    assert len(lines) == 1 + N_CELLS


def test_parquet_holds_the_table(annotation: Annotation, tmp_path: Path) -> None:
    write_table(annotation, tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "labels.parquet"), annotation.table())


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
sys.modules["fastparquet"] = None
import pickle
from pathlib import Path
from spikgpt.errors import ConfigError
from spikgpt.files import write_table
try:
    write_table(pickle.loads(Path("annotation").read_bytes()), Path("labels.parquet"))
except ConfigError as error:
    sys.exit(str(error))
"""


def test_parquet_without_pyarrow_says_what_to_install(annotation: Annotation, tmp_path: Path) -> None:
    # pandas keeps what it imported, so this takes a process of its own.
    (tmp_path / "annotation").write_bytes(pickle.dumps(annotation))
    run = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW], cwd=tmp_path, capture_output=True, text=True)
    assert run.stderr == ("Writing parquet needs pyarrow: pip install 'spikgpt[parquet]'. Or write a .csv file.\n")
    assert run.returncode == 1
    assert leftovers(tmp_path) == ["annotation"]


@pytest.mark.parametrize("name", ["labels.xlsx", "labels", "labels.CSV", ".csv"])
def test_a_table_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"a table is written as .csv or .parquet\."):
        check_table(Path(name))


@pytest.mark.parametrize("name", ["labels.csv", "a.b.parquet"])
def test_tables_are_known_by_their_names(name: str) -> None:
    check_table(Path(name))

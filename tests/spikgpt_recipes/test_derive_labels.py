"""Labels of the recipe lung-lavage, derived from counts."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt_recipes.recipe import find_recipe, read_recipe

FOLDER = find_recipe("lung-lavage")
TYPES = {"macrophage": 80, "T cell": 80, "ciliated cell": 80}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("derive_labels", FOLDER / "derive_labels.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def markers_of(table: pd.DataFrame, name: str) -> list[str]:
    chosen: list[str] = table.loc[(table["type"] == name) & (table["expressed"] == "yes"), "gene"].tolist()
    return chosen


def lavage(table: pd.DataFrame) -> AnnData:
    """Return simulated cells of three types, each with its markers and 40 other genes; the last ten are doublets."""
    random = np.random.default_rng(0)
    genes = [*table["gene"].unique(), *(f"GENE{number}" for number in range(400))]
    names = [name for name, cells in TYPES.items() for _ in range(cells)]
    counts = random.poisson(0.02, (len(names), len(genes)))
    for row, name in enumerate(names):
        own = [genes.index(gene) for gene in markers_of(table, name)]
        start = len(genes) - 400 + 40 * list(TYPES).index(name)
        counts[row, own] += random.poisson(3, len(own))
        counts[row, start : start + 40] += random.poisson(3, 40)
    counts[-10:] += counts[:10]
    obs = pd.DataFrame({"type": names}, index=[f"C1_CELL{row}" for row in range(len(names))])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=genes))


def test_the_marker_table_has_every_label_and_no_duplicates(script: ModuleType) -> None:
    table = pd.read_csv(script.MARKERS)
    assert set(read_recipe(FOLDER).labels) <= set(table["type"])
    assert not table.duplicated(["type", "gene"]).any()
    assert table["source"].notna().all()
    assert (table.groupby("type")["compartment"].nunique() == 1).all()


def test_committed_labels_match_the_recipe() -> None:
    labels = pd.read_csv(FOLDER / "labels.csv.gz")
    recipe = read_recipe(FOLDER)
    assert set(labels["label"]) == set(recipe.labels)
    assert len(labels) == labels["cell"].nunique() == recipe.cells.reference
    assert labels["cell"].is_monotonic_increasing


def test_cells_with_markers_of_two_types_or_of_another_type_have_no_label(script: ModuleType) -> None:
    table = pd.read_csv(script.MARKERS)
    genes = table["gene"].unique()

    def cell(*names: str) -> list[bool]:
        expressed = {gene for name in names for gene in markers_of(table, name)}
        return [gene in expressed for gene in genes]

    detected = pd.DataFrame([cell("T cell"), cell("T cell", "macrophage"), cell("NK cell"), cell()], columns=genes)
    labels = pd.Series("T cell", index=detected.index)
    assert script.agrees(labels, detected, table).tolist() == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_script_labels_clusters_and_excludes_doublets(script: ModuleType, tmp_path: Path) -> None:
    cells = lavage(pd.read_csv(script.MARKERS))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "labels.csv.gz"
    path = str(FOLDER / "derive_labels.py")
    command = [sys.executable, path, str(tmp_path / "cells.h5ad"), "--out", str(out), "--compare", "type"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    labels = pd.read_csv(out, index_col="cell")["label"]
    assert (labels == cells.obs.loc[labels.index, "type"]).all()
    assert not labels.index.intersection(cells.obs_names[-10:]).size
    assert len(labels) > 200
    assert f"{len(labels)} of {len(labels)} labelled cells agree, 1.000; adjusted Rand index 1.000" in done.stdout
    # The gzip file has no time stamp.
    assert out.read_bytes()[4:8] == bytes(4)
    assert gzip.decompress(out.read_bytes()).startswith(b"cell,label\n")

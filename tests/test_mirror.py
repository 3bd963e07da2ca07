"""Mirrors written from .h5ad files: the readers of a recipe return the same cells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import mirror
from mirror import LAYOUTS, log_normalised, read_data
from spikgpt.cells.content.values import row_sums
from spikgpt.errors import ConfigError
from spikgpt_recipes.readers.study import read_study
from spikgpt_recipes.recipe import find_recipe, own_file, read_recipe, recipe_folders


def islets(cells: AnnData) -> AnnData:
    return cells[:60, :200].copy()


def eyes(cells: AnnData) -> AnnData:
    """Return cells with the obs columns of Voigt et al., two samples of two donors."""
    few = islets(cells)
    even = np.arange(60) % 2 == 0
    few.obs = pd.DataFrame(
        {
            "donor": np.where(even, "donor1", "donor2"),
            "region": np.where(even, "fovea", "peripheral"),
            "gsm": "GSM1",
            "cluster": [str(1 + cell % 7) for cell in range(60)],
        },
        index=[f"{'fovea_1' if first else 'peripheral_2'}_ACGT{cell}-1" for cell, first in enumerate(even.tolist())],
    )
    # A gene with count 1 in each cell, because nearly every real cell has a count of 1.
    few.X = sparse.hstack([few.X[:, 1:], np.ones((60, 1), np.float32)], format="csr")
    return few


def choroids(cells: AnnData) -> AnnData:
    few = eyes(cells)
    few.obs["region"] = few.obs["region"].replace({"fovea": "macula"})
    return few


def blood(cells: AnnData) -> AnnData:
    few = islets(cells)
    few.obs_names = ["".join("ACGT"[cell // 4**digit % 4] for digit in range(14)) for cell in range(60)]
    few.obs["cell_type"] = ["B", "CD8 T", "NK"] * 20
    return few


def lavage(cells: AnnData) -> AnnData:
    """Return cells of two samples with cell names that have a label in the recipe."""
    few = islets(cells)
    table = pd.read_csv(find_recipe("lung-lavage") / "labels.csv.gz", index_col="cell")["label"]
    named = pd.concat([table[table.index.str.startswith(sample)][:30] for sample in ("C144", "C146")])
    few.obs = pd.DataFrame({"cell_type": named, "gsm": ["GSM1"] * 30 + ["GSM2"] * 30}, index=named.index)
    return few


def hearts(cells: AnnData) -> AnnData:
    few = islets(cells)
    labels = ["fibroblast", "regular atrial cardiac myocyte", "endothelial cell of lymphatic vessel"]
    few.obs = few.obs[[]].assign(donor="AH2", cell_type=labels * 20)
    return few


# For each recipe: the function that makes the cells, the name of the study, and the obs column with the labels.
CASES: dict[str, tuple[Callable[[AnnData], AnnData], str, str]] = {
    "pancreas": (islets, "Baron", "cell_type"),
    "retina": (eyes, "Voigt", "cluster"),
    "rpe-choroid": (choroids, "Voigt", "cluster"),
    "pbmc": (blood, "10x", "cell_type"),
    "lung-lavage": (lavage, "Liao", "cell_type"),
    "heart-sinoatrial": (hearts, "Kanemaru", "cell_type"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_readers_of_a_recipe_return_the_counts_and_labels(name: str, cells: AnnData, tmp_path: Path) -> None:
    make, title, key = CASES[name]
    few = make(cells)
    LAYOUTS[name][0](few, tmp_path)
    folder = find_recipe(name)
    (study,) = (study for study in read_recipe(folder).sources if study.study == title)
    paths = {
        file.name: tmp_path / study.accession / file.name if file.url else own_file(folder, file)
        for file in study.files
    }
    parts = list(read_study(study.files, paths))
    # The readers return cells sample by sample.
    if "donor" in few.obs:
        few = few[np.argsort(few.obs["donor"].astype(str).to_numpy(), kind="stable")]
    assert [label for part in parts for label in part.obs["cell_type"]] == few.obs[key].astype(str).tolist()
    assert {label for part in parts for label in part.obs["cell_type"]} <= set(study.labels)
    if "donor" in parts[0].obs:
        donors = [donor.replace("_", "") for part in parts for donor in part.obs["donor"]]
        assert donors == few.obs["donor"].astype(str).tolist()
    assert (sparse.vstack([part.X for part in parts]) != few.X).nnz == 0
    assert all(list(part.var_names) == list(few.var_names) for part in parts)


def test_every_registered_recipe_exists_and_is_tested() -> None:
    assert set(LAYOUTS) == set(CASES)
    assert set(LAYOUTS) <= set(recipe_folders())


def test_the_command_writes_the_files_and_lists_them(cells: AnnData, tmp_path: Path) -> None:
    eyes(cells).write_h5ad(tmp_path / "retina_voigt_human.h5ad")
    command = [sys.executable, str(Path(mirror.__file__)), "retina", "--data", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Wrote to {tmp_path / 'out'}: GSE130636/GSE130636_RAW.tar\n"
    refused = subprocess.run([*command[:2], "pbmc", *command[3:]], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert f"{tmp_path} has no file pbmc_10x_3k*.h5ad; expected the labelled cells" in refused.stderr


def test_log_values_have_the_same_total_per_cell(cells: AnnData) -> None:
    values = log_normalised(cells.X)
    values.data = np.expm1(values.data)
    np.testing.assert_allclose(row_sums(values), 1e4)


def test_cells_of_all_matching_files_are_read(tmp_path: Path, cells: AnnData) -> None:
    cells[:5].write_h5ad(tmp_path / "kidney_b.h5ad")
    cells[5:9].write_h5ad(tmp_path / "kidney_a.h5ad")
    assert read_data(tmp_path, "kidney_*.h5ad").obs_names.tolist() == [*cells.obs_names[5:9], *cells.obs_names[:5]]
    with pytest.raises(ConfigError, match=r"has no file lung_\*\.h5ad; expected the labelled cells"):
        read_data(tmp_path, "lung_*.h5ad")

"""Mirrors from .h5ad files: the readers of a recipe give back the cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from mirror import LAYOUTS, log_normalised, read_data
from spikgpt.cells.content.values import row_sums
from spikgpt.errors import ConfigError
from spikgpt_recipes.readers.study import read_study
from spikgpt_recipes.recipe import find_recipe, read_recipe


def test_the_readers_of_the_recipe_give_back_counts_and_labels(cells: AnnData, tmp_path: Path) -> None:
    few = cells[:60, :200].copy()
    LAYOUTS["pancreas"][0](few, tmp_path)
    study = read_recipe(find_recipe("pancreas")).sources[0]
    paths = {file.name: tmp_path / study.accession / file.name for file in study.files}
    for part in read_study(study.files, paths):
        assert part.obs["cell_type"].tolist() == few[part.obs_names].obs["cell_type"].tolist()
        assert part.obs["donor"].tolist() == few[part.obs_names].obs["donor"].tolist()
        assert (part.X != few[part.obs_names].X).nnz == 0


def test_log_values_have_one_total(cells: AnnData) -> None:
    values = log_normalised(cells.X)
    values.data = np.expm1(values.data)
    np.testing.assert_allclose(row_sums(values), 1e4)


def test_cells_come_from_every_file_of_the_pattern(tmp_path: Path, cells: AnnData) -> None:
    cells[:5].write_h5ad(tmp_path / "kidney_b.h5ad")
    cells[5:9].write_h5ad(tmp_path / "kidney_a.h5ad")
    assert read_data(tmp_path, "kidney_*.h5ad").obs_names.tolist() == [*cells.obs_names[5:9], *cells.obs_names[:5]]
    with pytest.raises(ConfigError, match=r"has no file lung_\*\.h5ad; expected the labelled cells"):
        read_data(tmp_path, "lung_*.h5ad")

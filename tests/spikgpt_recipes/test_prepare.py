"""The cells of all studies are written to disk as one AnnData."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from msgspec.structs import replace
from scipy import sparse

from spikgpt.cells.reading import read_cells
from spikgpt.errors import DataError, LabelsError
from spikgpt_recipes import prepare as preparing
from spikgpt_recipes.plan import BuildPlan, StudySelection, plan_build
from spikgpt_recipes.prepare import count_donors, prepare
from spikgpt_recipes.recipe import BuildRecipe, CellFilter, read_recipe
from tests.spikgpt_recipes.conftest import write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> BuildRecipe:
    return read_recipe(write_recipe(tmp_path / "recipe"))


@pytest.fixture
def plan(recipe: BuildRecipe) -> BuildPlan:
    return plan_build(recipe)


def prepared_counts(recipe: BuildRecipe, selections: Sequence[StudySelection], mirror: Path, out: Path) -> Any:
    paths = {selection.name: {"GSE84133_RAW.tar": mirror / "GSE84133" / "GSE84133_RAW.tar"} for selection in selections}
    return prepare(recipe, selections, paths, out)


def test_prepared_cells_have_the_counts_of_the_study_and_the_labels_of_the_recipe(
    recipe: BuildRecipe, plan: BuildPlan, mirror: Path, islets: AnnData, tmp_path: Path
) -> None:
    counts = prepared_counts(recipe, plan.reference, mirror, tmp_path / "cells.h5ad")["ReferenceStudy"]
    cells = read_cells(tmp_path / "cells.h5ad")
    wanted = islets[islets.obs["donor"].isin(["human1", "human2"]) & (islets.obs["cell_type"] != "endothelial")]
    wanted = wanted[cells.obs_names, cells.var_names]
    assert (cells.X != wanted.X.astype(np.float32)).nnz == 0
    assert cells.X.dtype == np.float32
    assert list(cells.var_names) == sorted(islets.var_names)
    names = {"ductal": "exocrine", "acinar": "exocrine"}
    assert cells.obs["cell_type"].tolist() == [names.get(str(name), str(name)) for name in wanted.obs["cell_type"]]
    assert cells.obs["donor"].tolist() == wanted.obs["donor"].tolist()
    assert set(cells.obs["study"]) == {"ReferenceStudy"}
    assert set(cells.obs.loc[cells.obs["cell_type"] == "exocrine", "cell_ontology_id"]) == {"CL:0000083"}
    assert (counts.cells, counts.excluded_label, counts.not_selected) == (200, 40, 120)
    assert counts.labels == {"alpha": 40, "beta": 40, "delta": 40, "exocrine": 80}
    assert count_donors(tmp_path / "cells.h5ad") == 2


def test_names_of_cells_and_donors_include_the_study(
    recipe: BuildRecipe, plan: BuildPlan, mirror: Path, tmp_path: Path
) -> None:
    prepared_counts(recipe, [*plan.reference, *plan.query], mirror, tmp_path / "cells.h5ad")
    cells = read_cells(tmp_path / "cells.h5ad")
    assert cells.obs["study"].value_counts().to_dict() == {"ReferenceStudy": 200, "QueryStudy": 100}
    assert set(cells.obs["donor"]) == {"ReferenceStudy human1", "ReferenceStudy human2", "QueryStudy human3"}
    assert cells.obs_names.is_unique
    assert cells.obs_names[0].startswith("ReferenceStudy ")


def test_a_label_missing_from_the_recipe_is_an_error(
    recipe: BuildRecipe, plan: BuildPlan, mirror: Path, tmp_path: Path
) -> None:
    (selection,) = plan.reference
    fewer = {name: ours for name, ours in selection.study.labels.items() if name not in ("delta", "acinar")}
    lacking = StudySelection(replace(selection.study, labels=fewer), {})
    with pytest.raises(
        LabelsError, match=r"labels of ReferenceStudy: 'acinar' \(40 cells\), 'delta' \(40 cells\)\. Add"
    ):
        prepared_counts(recipe, [lacking], mirror, tmp_path / "cells.h5ad")
    assert list(tmp_path.glob("*.h5ad")) == []
    assert list(tmp_path.glob(".*")) == []


def test_cells_of_low_quality_are_excluded(
    recipe: BuildRecipe, plan: BuildPlan, mirror: Path, islets: AnnData, tmp_path: Path
) -> None:
    genes = int(np.median(np.diff(islets.X.indptr)))
    strict = replace(recipe, preprocessing=CellFilter(minimum_genes=genes))
    counts = prepared_counts(strict, plan.reference, mirror, tmp_path / "cells.h5ad")["ReferenceStudy"]
    assert counts.cells + counts.low_quality == 200
    assert counts.low_quality > 50
    assert np.diff(read_cells(tmp_path / "cells.h5ad").X.indptr).min() >= genes


def test_a_selection_without_cells_is_an_error(
    recipe: BuildRecipe, plan: BuildPlan, mirror: Path, tmp_path: Path
) -> None:
    nobody = StudySelection(plan.reference[0].study, {"donor": ("human9",)})
    with pytest.raises(
        DataError, match=r"No cell is left to write to cells\.h5ad: ReferenceStudy: .*'not_selected': 360"
    ):
        prepared_counts(recipe, [nobody], mirror, tmp_path / "cells.h5ad")
    strange = StudySelection(plan.reference[0].study, {"sex": ("female",)})
    with pytest.raises(DataError, match="have no column 'sex'; its readers give"):
        prepared_counts(recipe, [strange], mirror, tmp_path / "cells.h5ad")


def test_tables_keep_the_shared_genes_under_any_synonym(
    recipe: BuildRecipe, plan: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = [f"GENE{number}" for number in range(60)]
    first = ["INS", "GCG", "SST", "ONLY-HERE", *symbols]
    second = ["HLA.A", *reversed(symbols), "ENSG00000254647", "ENSG00000115263", "SST"]

    def parts(*_: object) -> Iterator[AnnData]:
        for number, names in enumerate((first, second)):
            values = sparse.csr_matrix(np.arange(2 * len(names), dtype=np.float32).reshape(2, -1) + 0.4)
            obs = pd.DataFrame({"cell_type": ["alpha", None], "donor": "human1"}, index=[f"a{number}", f"b{number}"])
            yield AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(names)))

    monkeypatch.setattr(preparing, "read_study", parts)
    source = replace(plan.reference[0].study, round=True)
    paths: Mapping[str, Mapping[str, Path]] = {source.study: {}}
    counts = prepare(recipe, [StudySelection(source, {})], paths, tmp_path / "cells.h5ad")[source.study]
    cells = read_cells(tmp_path / "cells.h5ad")
    assert list(cells.var_names) == sorted(["INS", "GCG", "SST", *symbols])
    assert cells.obs_names.tolist() == ["a0", "a1"]
    assert counts.unlabelled == 2
    assert cells[:, ["INS", "GCG", "SST"]].X.toarray().tolist() == [[0, 1, 2], [61, 62, 63]]
    assert count_donors(tmp_path / "cells.h5ad") == 1

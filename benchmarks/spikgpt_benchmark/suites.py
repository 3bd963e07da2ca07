"""Load the suites of the method comparison: fixed tasks on published studies, and the tasks of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from anndata import AnnData, read_h5ad

from spikgpt.errors import DataError
from spikgpt_benchmark.studies.datasets import LABEL, UNSEEN, donor_column, leave_type_out, load_pair
from spikgpt_benchmark.studies.layouts import distinct_cells
from spikgpt_benchmark.studies.speed import CELLS
from spikgpt_benchmark.task import BenchmarkTask

SUITES = {
    "pbmc": "10x PBMC 3k to Kang et al., control and stimulated",
    "baron": "Baron donors human1 and human3 to human2 and human4",
    "xin": "Baron human to Xin et al.",
    "many-cells": "Baron human1 to 20,000 distinct cells, drawn from human2 and human4",
    "novelty": "the same three, with one type missing from the reference",
    "retina": "the paper's: GSE148077 to GSE130636",
    "lung": "the paper's: core of the Human Lung Cell Atlas to GSE128033",
    "pancreas": "the paper's: GSE84133 and GSE85241 without alpha cells to GSE81608, E-MTAB-5061 and GSE86473",
}
# Number of query cells in the suite many-cells.
MANY_CELLS = 20_000
# Columns that name a batch, in order of preference.
BATCH_COLUMNS = ("batch", "donor_id", "donor")


def load_suite(suite: str, data: Path) -> list[BenchmarkTask]:
    """Return the tasks of a suite, from the files in a folder.

    Raises
    ------
    DataError
        When a file is missing.
    """
    if suite in UNSEEN:
        pair = load_pair(suite, data)
        return [BenchmarkTask.from_cells(suite, *pair, LABEL, _shared_donors(*pair)).with_known_types()]
    if suite == "many-cells":
        reference, query = read_h5ad(CELLS.with_name("pancreas_baron_human1.h5ad")), distinct_cells(MANY_CELLS)
        return [BenchmarkTask.from_cells(suite, reference, query, "cell_type").with_known_types()]
    if suite == "novelty":
        tasks = []
        for name, left_out in UNSEEN.items():
            pair = leave_type_out(*load_pair(name, data), left_out)
            task = BenchmarkTask.from_cells(f"{name} without {left_out}", *pair, LABEL, _shared_donors(*pair))
            tasks.append(replace(task, left_out=left_out))
        return tasks
    return _paper_tasks(suite, data)


def _shared_donors(reference: AnnData, query: AnnData) -> str | None:
    """Return the column of donors if the reference has several donors and the query has the column; else None."""
    column = donor_column(reference)
    return column if column in query.obs else None


def _paper_tasks(suite: str, data: Path) -> list[BenchmarkTask]:
    """Return the tasks of a suite of the paper, one for each query, from prepared files."""
    from spikgpt_recipes.recipe import find_recipe, read_recipe

    reference_file, queries = data / f"{suite}_reference.h5ad", [data / f"{suite}_query.h5ad"]
    built = data / f".{suite}.build" / "prepared"
    if not reference_file.is_file() and (built / "reference.h5ad").is_file():
        reference_file, queries = built / "reference.h5ad", sorted(built.glob("query-*.h5ad"))
    if missing := [file.name for file in (reference_file, *queries) if not file.is_file()]:
        msg = (
            f"{data} has no {' and no '.join(missing)} ({SUITES[suite]}). Make them with `spikgpt build {suite} "
            f"--steps download,prepare --out {data / suite}`, or by hand: counts in X, types in obs[{LABEL!r}]."
        )
        raise DataError(msg)
    reference, recipe = read_h5ad(reference_file), read_recipe(find_recipe(suite))
    left_out = next(iter(recipe.left_out), "")
    if left_out and LABEL in reference.obs:
        reference = reference[(reference.obs[LABEL] != left_out).to_numpy()].copy()
    tasks = []
    for file in queries:
        query, study = read_h5ad(file), file.stem.partition("-")[2]
        batch = next((key for key in BATCH_COLUMNS if key in reference.obs and key in query.obs), None)
        task = BenchmarkTask.from_cells(f"{suite} to {study}" if study else suite, reference, query, LABEL, batch)
        tasks.append(replace(task, left_out=left_out, paper=recipe.paper.figures if recipe.paper else ""))
    return tasks

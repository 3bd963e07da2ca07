"""Named tasks: fixed ones on files of real studies, and those of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from anndata import AnnData, read_h5ad

from spikgpt.benchmark.task import Task
from spikgpt.building.recipe import find_recipe, read_recipe
from spikgpt.errors import ConfigError, DataError, listed

LABEL = "cell_type"
# Cells of the reference that a label needs.
CELLS_OF_LABEL = 5
# What the PBMC studies call the same type; cells with other labels are left out.
PBMC_LABELS = {
    "Naive CD4 T": "CD4 T",
    "Memory CD4 T": "CD4 T",
    "CD4 Naive T": "CD4 T",
    "CD4 Memory T": "CD4 T",
    "CD8 T": "CD8 T",
    "B": "B",
    "NK": "NK",
    "CD14+ Mono": "CD14 Mono",
    "CD14 Mono": "CD14 Mono",
    "FCGR3A+ Mono": "CD16 Mono",
    "CD16 Mono": "CD16 Mono",
    "DC": "DC",
    "Platelet": "Mk",
    "Mk": "Mk",
}
# Files of each fixed task.
PBMC = ("pbmc_10x_3k", "pbmc_kang_ifnb")
PANCREAS = ("pancreas_baron_human", "pancreas_xin_980genes")
FIXED = {"pbmc": PBMC, "baron": PANCREAS[:1], "xin": PANCREAS}
# The type that is taken out of the reference of each of them.
UNSEEN = {"pbmc": "B", "baron": "alpha", "xin": "alpha"}
# Those of the paper: their recipes have the figures that it reports, of its own software on its own selection of cells.
PAPER = ("retina", "lung", "pancreas")
# Columns that name a batch, in this order.
BATCHES = ("batch", "donor_id", "donor")
SUITES = {
    "pbmc": "10x PBMC 3k to Kang et al., control and stimulated",
    "baron": "Baron donors human1 and human3 to human2 and human4",
    "xin": "Baron human to Xin et al.",
    "novelty": "the same three, with one type missing from the reference",
    "retina": "the paper's: GSE148077 to GSE130636",
    "lung": "the paper's: core of the Human Lung Cell Atlas to GSE128033",
    "pancreas": "the paper's: GSE84133 and GSE85241 without alpha cells to GSE81608, E-MTAB-5061 and GSE86473",
}


def batch_key_of(cells: AnnData) -> str | None:
    """Return the column of donors, where there are several."""
    return "donor" if "donor" in cells.obs and cells.obs["donor"].nunique() > 1 else None


def enough(cells: AnnData) -> AnnData:
    """Return the cells of the labels that have enough of them."""
    counts = cells.obs[LABEL].value_counts()
    return cells[cells.obs[LABEL].isin(counts.index[counts >= CELLS_OF_LABEL]).to_numpy()].copy()


def load_task(name: str, data: Path) -> tuple[AnnData, AnnData]:
    """Return the reference and the query of a fixed task, on their shared genes, with ``obs["cell_type"]``.

    Raises
    ------
    DataError
        When a file is not there.
    """
    for file in FIXED[name]:
        if not (data / f"{file}.h5ad").is_file():
            msg = f"{data} has no {file}.h5ad; the suite {name} needs {listed(f'{one}.h5ad' for one in FIXED[name])}."
            raise DataError(msg)
    if name == "pbmc":
        pair = [read_h5ad(data / f"{file}.h5ad") for file in PBMC]
        for adata in pair:
            adata.obs[LABEL] = adata.obs[LABEL].astype(str).map(PBMC_LABELS)
        reference, query = (adata[adata.obs[LABEL].notna()].copy() for adata in pair)
    else:
        human = read_h5ad(data / f"{PANCREAS[0]}.h5ad")
        if name == "baron":
            is_reference = human.obs["donor"].isin(["human1", "human3"]).to_numpy()
            reference, query = human[is_reference].copy(), human[~is_reference].copy()
        else:
            reference, query = human, read_h5ad(data / f"{PANCREAS[1]}.h5ad")
    shared = reference.var_names[reference.var_names.isin(query.var_names)]
    return enough(reference)[:, shared].copy(), query[:, shared].copy()


def without(cells: AnnData, query: AnnData, left_out: str) -> tuple[AnnData, AnnData]:
    """Return a reference without a type, and the query's cells of its types and of that one."""
    cells = enough(cells[cells.obs[LABEL] != left_out])
    return cells, query[query.obs[LABEL].isin([*cells.obs[LABEL].unique(), left_out])].copy()


def tasks_of(suite: str, data: Path) -> list[Task]:
    """Return the tasks of a suite, from the files in a folder.

    Raises
    ------
    ConfigError
        When there is no such suite.
    DataError
        When a file is not there.
    """
    if suite in FIXED:
        pair = load_task(suite, data)
        return [Task.of(suite, *pair, LABEL, _shared_batch(*pair)).of_known_types()]
    if suite == "novelty":
        found = []
        for name, left_out in UNSEEN.items():
            pair = without(*load_task(name, data), left_out)
            task = Task.of(f"{name} without {left_out}", *pair, LABEL, _shared_batch(*pair))
            found.append(replace(task, left_out=left_out))
        return found
    if suite in PAPER:
        return _of_the_paper(suite, data)
    msg = f"There is no suite {suite!r}; the suites are {listed(SUITES)}."
    raise ConfigError(msg)


def _shared_batch(reference: AnnData, query: AnnData) -> str | None:
    """Return the column of donors, where the reference has several and the query has it."""
    key = batch_key_of(reference)
    return key if key in query.obs else None


def _of_the_paper(suite: str, data: Path) -> list[Task]:
    """Return the tasks of a suite of the paper, one for each query, from prepared files."""
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
    reference = read_h5ad(reference_file)
    recipe = read_recipe(find_recipe(suite))
    left_out = next(iter(recipe.left_out), "")
    if left_out and LABEL in reference.obs:
        reference = reference[(reference.obs[LABEL] != left_out).to_numpy()].copy()
    tasks = []
    for file in queries:
        query, study = read_h5ad(file), file.stem.partition("-")[2]
        batch = next((key for key in BATCHES if key in reference.obs and key in query.obs), None)
        task = Task.of(f"{suite} to {study}" if study else suite, reference, query, LABEL, batch)
        tasks.append(replace(task, left_out=left_out, paper=recipe.paper.figures))
    return tasks

"""Measure rejection of cells without a label in a reference: other tissues, species, empty droplets, doublets."""

from __future__ import annotations

from collections.abc import Iterator

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.studies.datasets import LABEL, load_pair, mouse_pancreas, read_study
from spikgpt_benchmark.studies.queries import compare
from spikgpt_benchmark.studies.scoring import DEFAULT, NO_REJECTION, annotate_with, score_query, train_or_load
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite
from spikgpt_benchmark.studies.tasks import evaluation_tasks

# Boolean column of obs: True for cells of the query's own tissue.
OWN = "own"
# Shares of foreign cells in a contaminated query, and the task whose query is contaminated.
SHARES = (0.05, 0.2, 0.5)
HOST = "baron: two donors to two"


def foreign_records(context: StudyContext) -> Iterator[Record]:
    """Yield the shares of foreign cells and of pancreas cells that are Unknown for a human pancreas reference."""
    reference, query = load_pair("baron", context.data)
    human = read_study(context.data, "baron")
    reference, query = (human[human.obs_names.isin(cells.obs_names)].copy() for cells in (reference, query))
    for seed in range(context.seeds):
        model = train_or_load(reference, context.cache, seed)
        for name, cells in foreign_queries(context, query):
            scores, own = score_query(model, cells), cells.obs[OWN].to_numpy()
            unknown = {rule: rejected for rule, rejected in scores.unknown.items() if rule != NO_REJECTION}
            unknown["default, no smoothing"] = annotate_with(model, cells, {"smoothing": False}).rejected
            record: Record = {"cells": name, "number": cells.n_obs, "seed": seed}
            for group, chosen in (("foreign Unknown", ~own), ("known Unknown", own)):
                for rule, rejected in unknown.items():
                    record[f"{group}: {rule}"] = float(rejected[chosen].mean()) if chosen.any() else None
            yield record | {"compatibility": scores.compatibility.kind if scores.compatibility else None}


def foreign_queries(context: StudyContext, query: AnnData) -> Iterator[tuple[str, AnnData]]:
    """Yield queries with foreign cells, each with its name; ``obs["own"]`` is True for cells of the query's tissue."""
    random = np.random.default_rng(0)
    counts = sparse.csr_matrix(query.X)
    yield "human2 and human4", _with_own_first(counts, query.var, query.n_obs)
    mouse, blood = mouse_pancreas(context.data), read_study(context.data, "3k")
    yield "mouse pancreas, upper-cased symbols", _with_own_first(mouse.X, mouse.var, 0)
    yield "blood (PBMC 3k)", _with_own_first(blood.X, blood.var, 0)
    empty = empty_droplets(query, 500, random)
    yield "empty droplets, 100 to 1000 counts", _with_own_first(empty, query.var, 0)
    yield "human2, human4 and empty droplets", _with_own_first(sparse.vstack([counts, empty]), query.var, query.n_obs)
    labels = query.obs[LABEL].astype(str).to_numpy()
    first, second = random.integers(query.n_obs, size=(2, 1000))
    differ = labels[first] != labels[second]
    doublets = sparse.csr_matrix(counts[first[differ]] + counts[second[differ]])
    yield "doublets of two cell types", _with_own_first(doublets, query.var, 0)
    few = sparse.vstack([counts, doublets[:75]])
    yield "human2, human4 and 75 doublets", _with_own_first(few, query.var, query.n_obs)


def empty_droplets(cells: AnnData, number: int, random: np.random.Generator) -> sparse.csr_matrix:
    """Return simulated empty droplets, shape (number, G), with 100 to 1000 counts each of the cells' ambient RNA."""
    counts = sparse.csr_matrix(cells.X)
    profile = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
    totals = random.integers(100, 1000, number)
    return sparse.csr_matrix(random.poisson(totals[:, None] * profile).astype(np.float32))


def _with_own_first(values: sparse.spmatrix, genes: pd.DataFrame, n_own: int) -> AnnData:
    """Return cells with values of shape (n, G); the first ``n_own`` cells are of the query's tissue."""
    index = pd.RangeIndex(values.shape[0])
    obs = pd.DataFrame({OWN: index < n_own}, index=index.astype(str))
    return AnnData(sparse.csr_matrix(values), obs=obs, var=genes)


def contamination_records(context: StudyContext) -> Iterator[Record]:
    """Yield the changes in a query's labels when foreign cells are added, for each kind and share of foreign cells."""
    task = next(task for task in evaluation_tasks(context.data) if task.name == HOST)
    model = train_or_load(task.reference, context.cache)
    truth = task.query.obs[LABEL].astype(str).to_numpy()
    query = AnnData(task.query.X.copy(), obs=task.query.obs[[]].copy(), var=task.query.var[[]].copy())
    whole, own = score_query(model, query), np.arange(query.n_obs)
    for name, share, cells in contaminated_queries(query, context):
        scores = score_query(model, cells)
        yield {
            **{"foreign cells": name, "share": share, "cells": cells.n_obs},
            **compare(whole, scores, own, own, truth),
            "foreign Unknown": float(scores.unknown[DEFAULT][query.n_obs :].mean()),
            "compatibility": scores.compatibility.kind if scores.compatibility else None,
        }


def contaminated_queries(query: AnnData, context: StudyContext) -> Iterator[tuple[str, float, AnnData]]:
    """Yield the kind of the foreign cells, their share, and the query followed by these cells."""
    random = np.random.default_rng(0)
    names = {
        "blood": "3k",
        "lung lavage": "lavage",
        "lung cancer lines": "cell lines",
        "mouse pancreas, mouse symbols": "baron mouse",
    }
    kinds = {kind: read_study(context.data, name) for kind, name in names.items()}
    kinds["empty droplets"] = AnnData(empty_droplets(query, query.n_obs, random), var=query.var)
    for kind, cells in kinds.items():
        for share in SHARES:
            number = min(round(query.n_obs * share / (1 - share)), cells.n_obs)
            chosen = cells[np.sort(random.permutation(cells.n_obs)[:number])]
            chosen = chosen[:, ~chosen.var_names.duplicated()].copy()
            both = anndata.concat([query, chosen], join="outer", index_unique="-", fill_value=0)
            yield kind, share, AnnData(sparse.csr_matrix(both.X), obs=both.obs[[]].copy(), var=both.var)


SUITES = {
    "foreign-cells": StudySuite(
        "cells that a human pancreas reference has no label for",
        foreign_records,
        ("cells", "number", "seed", "compatibility"),
        ("cells",),
    ),
    "contamination": StudySuite(
        f"foreign cells among the cells of a query; {HOST}",
        contamination_records,
        ("foreign cells", "share", "cells", "compatibility"),
    ),
}

"""Measure how labels depend on the query's other cells: sorted types, and shuffled, halved and joined queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt.cells.obs import batches_of
from spikgpt.types import Rows, Strings
from spikgpt_benchmark.studies.datasets import LABEL, mouse_pancreas, read_study, split_by
from spikgpt_benchmark.studies.pooled import BATCH, pool_batches
from spikgpt_benchmark.studies.scoring import (
    DEFAULT,
    NO_REJECTION,
    UNCHECKED,
    QueryScores,
    score_query,
    train_or_load,
)
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite
from spikgpt_benchmark.studies.tasks import StudyTask, evaluation_tasks

# Largest number of cells of the type in a sorted query, and smallest number of cells of a tested type.
CELLS, FEWEST_CELLS = 100, 50
# Shares of one cell type in an enriched query.
SHARES = (1.0, 0.98, 0.95, 0.9, 0.8)
RULES = (NO_REJECTION, UNCHECKED, DEFAULT)
# Tasks whose queries are changed, and figures that compare the labels before and after.
STABLE = ("baron: two donors to two", "pbmc: 3k to Kang", "Kang to 3k", "xin: Baron to Xin")
CHANGES = ("labels changed", "Unknown changed", "right", "right before")


def population_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield tasks whose query is from other donors or from another study than the reference."""
    human = split_by(read_study(data, "baron"), "donor")
    yield StudyTask.from_cells("pancreas: human1 to human3", human["human1"], human["human3"])
    blood = read_study(data, "3k")
    yield StudyTask.from_cells("blood: 3k to sorted", blood, read_study(data, "zheng"))
    yield StudyTask.from_cells("blood: 3k to Kang", blood, read_study(data, "kang"))
    retina = split_by(read_study(data, "retina"), "donor")
    yield StudyTask.from_cells("retina: donor1 to donor3", retina["donor1"], retina["donor3"])
    choroid = read_study(data, "choroid")
    second = (choroid.obs["donor"] == "donor2").to_numpy()
    yield StudyTask.from_cells("choroid: donor2 to donors", choroid[second], choroid[~second])


def enriched(query: AnnData, cell_type: str, share: float) -> Rows:
    """Return rows of a query: cells of a type, which make up ``share`` of the rows, then cells of other types."""
    random = np.random.default_rng(0)
    own = (query.obs[LABEL] == cell_type).to_numpy()
    of_type, of_other_types = random.permutation(np.flatnonzero(own))[:CELLS], random.permutation(np.flatnonzero(~own))
    return np.concatenate([of_type, of_other_types[: round(len(of_type) * (1 - share) / share)]])


def population_records(context: StudyContext) -> Iterator[Record]:
    """Yield the share of cells of each type that get their label, in the query and in queries enriched for the type."""
    for task in population_tasks(context.data):
        if not context.selects(task.name):
            continue
        model = train_or_load(task.reference, context.cache)
        truth, whole = task.query.obs[LABEL].astype(str).to_numpy(), score_query(model, task.query)
        counts = task.query.obs[LABEL].value_counts()
        for cell_type in sorted(counts.index[counts >= FEWEST_CELLS]):
            chosen = enriched(task.query, cell_type, 1.0)
            in_whole = (whole.best[chosen] == truth[chosen]).mean()
            for share in (None, *SHARES):
                rows = chosen if share is None else enriched(task.query, cell_type, share)
                scores = whole if share is None else score_query(model, task.query[rows].copy())
                positions = chosen if share is None else np.arange(len(chosen))
                right = scores.best[positions] == truth[chosen]
                record: Record = {"task": task.name, "type": cell_type, "share": share or "whole query"}
                for rule in RULES:
                    kept = float((right & ~scores.unknown[rule][positions]).mean())
                    # Divide by the share of right labels in the whole query without rejection.
                    record |= {rule: kept, f"kept: {rule}": kept / in_whole if in_whole else None}
                yield record | {"cells": len(chosen), "refused": scores.refused}


def changed_queries(task: StudyTask, data: Path) -> Iterator[tuple[str, AnnData, Rows, Rows]]:
    """Yield changed queries: name, cells, rows of the original query, and rows of the same cells after the change."""
    random, query = np.random.default_rng(0), task.query
    order, every = random.permutation(query.n_obs), np.arange(query.n_obs)
    parts = {"shuffled": order}
    parts |= zip(("first half", "second half"), map(np.sort, np.array_split(order, 2)), strict=True)
    parts |= {f"thinned by {100 * share:.0f}%": np.sort(order[round(share * query.n_obs) :]) for share in (0.01, 0.3)}
    for name, rows in parts.items():
        yield name, query[rows].copy(), rows, every[: len(rows)]
    for name, other in _same_tissue(task, data).items():
        joined = pool_batches(name, task.reference, {"query": query, "other": other}, largest=None).query
        own = np.flatnonzero((joined.obs[BATCH] == "query").to_numpy())
        # The query's own batches stay separate.
        batches = joined.obs[BATCH].to_numpy(dtype=object)
        batches[own] = [f"query {code}" for code in batches_of(query, "auto").codes]
        joined.obs[BATCH] = batches
        yield f"joined with {name}", joined, every, own


def _same_tissue(task: StudyTask, data: Path) -> dict[str, AnnData]:
    """Return cells of the same tissue from another study, by name; empty for Xin et al., with logs of another base."""
    if "xin" in task.name:
        return {}
    if "3k" in task.name:
        return {"sorted blood": read_study(data, "zheng")}
    mouse = mouse_pancreas(data)
    return {"mouse pancreas": mouse[mouse.obs[LABEL].isin(task.reference.obs[LABEL].unique())].copy()}


def robustness_records(context: StudyContext) -> Iterator[Record]:
    """Yield the share of cells whose label changes when the other cells of the query change."""
    for task in evaluation_tasks(context.data):
        if task.name not in STABLE or not context.selects(task.name):
            continue
        model = train_or_load(task.reference, context.cache)
        whole, truth = score_query(model, task.query), task.query.obs[LABEL].astype(str).to_numpy()
        for name, query, rows, positions in changed_queries(task, context.data):
            record = {"task": task.name, "change": name, "cells": query.n_obs}
            yield record | compare(whole, score_query(model, query), rows, positions, truth)


def compare(before: QueryScores, after: QueryScores, rows: Rows, positions: Rows, truth: Strings) -> Record:
    """Compare the labels of the same cells: ``rows`` of the original and ``positions`` of the changed query."""
    unknown, was_unknown = after.unknown[DEFAULT][positions], before.unknown[DEFAULT][rows]
    best, was, own = after.best[positions], before.best[rows], truth[rows]
    values = best != was, unknown != was_unknown, (best == own) & ~unknown, (was == own) & ~was_unknown
    return {name: float(value.mean()) for name, value in zip(CHANGES, values, strict=True)}


SUITES = {
    "populations": StudySuite(
        "sorted and enriched cell types: share of the type's cells that get their label",
        population_records,
        ("task", "type", "share", "cells"),
        ("share",),
    ),
    "robustness": StudySuite("the same cells in another query", robustness_records, ("task", "change", "cells")),
}

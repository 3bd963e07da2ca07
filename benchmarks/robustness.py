"""How much a label depends on the other cells of a query: shuffled, halved, thinned, joined, with strangers among them.

    python benchmarks/robustness.py --data DIR [--part stability --part strangers] [--json FILE] [--cache DIR]

DIR holds the files that travel.py and pooled.py name. Such a change should alter the label of at most 1% of the cells,
and whether they are Unknown for at most 2%. Strangers are cells of another tissue or species, or empty droplets. They
should be Unknown where they are 5% to 50% of a query, and the labels of the other cells should stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from anndata import AnnData, read_h5ad
from pooled import BATCH, pool, zheng
from rich.table import Table
from scipy import sparse
from studies import Task, mouse_pancreas, options_and_cache, parser_of, tasks_to_report
from travel import DEFAULT, Seen, console, see, shown, trained
from unknown import empty_droplets

from spikgpt.benchmark.suites import LABEL
from spikgpt.cells.obs import batches_of
from spikgpt.types import Bools, Rows

PARTS = ("stability", "strangers")
# Shares of a query that are strangers.
SHARES = (0.05, 0.2, 0.5)
# Names of the tasks whose queries are changed, and the task that strangers are added to.
STABLE = ("baron: two donors to two", "pbmc: 3k to Kang", "Kang to 3k", "xin: Baron to Xin")
HOST = "baron: two donors to two"
COLUMNS = ("cells", "labels changed", "Unknown changed", "right", "right before")


def changed(task: Task, data: Path) -> Iterator[tuple[str, AnnData, Rows, Rows]]:
    """Give changed queries: name, cells, rows of the query, and rows of the same cells in the changed query."""
    random, query = np.random.default_rng(0), task.query
    order, every = random.permutation(query.n_obs), np.arange(query.n_obs)
    parts = {"shuffled": order}
    parts |= zip(("first half", "second half"), map(np.sort, np.array_split(order, 2)), strict=True)
    parts |= {f"thinned by {100 * share:.0f}%": np.sort(order[round(share * query.n_obs) :]) for share in (0.01, 0.3)}
    for name, rows in parts.items():
        yield name, query[rows].copy(), rows, every[: len(rows)]
    for name, other in others(task, data).items():
        joined = pool(name, task.reference, {"query": query, "other": other}, largest=None).query
        own = np.flatnonzero((joined.obs[BATCH] == "query").to_numpy())
        # The query's own batches stay apart.
        batches = joined.obs[BATCH].to_numpy(dtype=object)
        batches[own] = [f"query {code}" for code in batches_of(query, "auto").codes]
        joined.obs[BATCH] = batches
        yield f"joined with {name}", joined, every, own


def others(task: Task, data: Path) -> dict[str, AnnData]:
    """Return cells of the same tissue from another study; none for Xin's, which are logarithms of another base."""
    if "xin" in task.name:
        return {}
    if "3k" in task.name:
        return {"sorted blood": zheng(data)}
    mouse = mouse_pancreas(data)
    return {"mouse pancreas": mouse[mouse.obs[LABEL].isin(task.reference.obs[LABEL].unique())].copy()}


def flips(task: Task, data: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """Measure for how many cells of a query the label changes when the other cells of the query do."""
    model = trained(task.reference, cache)
    whole, truth = see(model, task.query), task.query.obs[LABEL].astype(str).to_numpy()
    for name, query, rows, places in changed(task, data):
        row = {"task": task.name, "change": name, "cells": query.n_obs}
        yield row | compared(whole, see(model, query), rows, places, truth)


def compared(whole: Seen, seen: Seen, rows: Rows, places: Rows, truth: Any) -> dict[str, float]:
    """Compare what is said of the same cells: ``rows`` of the whole query and ``places`` of the changed one."""
    unknown, before = seen.unknown[DEFAULT][places], whole.unknown[DEFAULT][rows]
    best, was, own = seen.best[places], whole.best[rows], truth[rows]
    return {
        "labels changed": float((best != was).mean()),
        "Unknown changed": float((unknown != before).mean()),
        "right": float(((best == own) & ~unknown).mean()),
        "right before": float(((was == own) & ~before).mean()),
    }


def with_strangers(query: AnnData, data: Path) -> Iterator[tuple[str, float, AnnData]]:
    """Give the query with strangers after its cells: their name, their share, and the cells."""
    random = np.random.default_rng(0)
    kinds = {
        "blood": read_h5ad(data / "pbmc_10x_3k.h5ad"),
        "lung lavage": read_h5ad(data / "lung_balf_liao_human.h5ad"),
        "lung cancer lines": read_h5ad(data / "lung_cancer_celllines_scmixology.h5ad"),
        "mouse pancreas, mouse symbols": read_h5ad(data / "pancreas_baron_mouse.h5ad"),
        "empty droplets": AnnData(empty_droplets(query, query.n_obs, random), var=query.var),
    }
    for name, cells in kinds.items():
        for share in SHARES:
            number = min(round(query.n_obs * share / (1 - share)), cells.n_obs)
            chosen = cells[np.sort(random.permutation(cells.n_obs)[:number])]
            chosen = chosen[:, ~chosen.var_names.duplicated()].copy()
            both = anndata.concat([query, chosen], join="outer", index_unique="-", fill_value=0)
            yield name, share, AnnData(sparse.csr_matrix(both.X), obs=both.obs[[]].copy(), var=both.var)


def among_strangers(task: Task, data: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """Measure a query with strangers among its cells."""
    model = trained(task.reference, cache)
    truth = task.query.obs[LABEL].astype(str).to_numpy()
    query = AnnData(task.query.X.copy(), obs=task.query.obs[[]].copy(), var=task.query.var[[]].copy())
    whole, own = see(model, query), np.arange(query.n_obs)
    for name, share, cells in with_strangers(query, data):
        seen = see(model, cells)
        strange: Bools = seen.unknown[DEFAULT][query.n_obs :]
        row: dict[str, Any] = {"strangers": name, "share": share, "cells": cells.n_obs}
        row |= compared(whole, seen, own, own, truth)
        yield row | {"strangers Unknown": float(strange.mean()), "verdict": seen.verdict.kind if seen.verdict else None}


def show(rows: Sequence[dict[str, Any]], first: Sequence[str], columns: Sequence[str], title: str) -> None:
    """Print a table."""
    table = Table(*first, *columns, title=title)
    for row in rows:
        table.add_row(*(str(row[name]) for name in first), *(shown(float(row[name])) for name in columns))
    console.print(table)


def main() -> None:
    """Run the parts that are asked for, print their tables, and write what is measured."""
    parser = parser_of(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    found = dict[str, list[dict[str, Any]]]()
    with options_and_cache(parser) as (options, cache):
        for task in tasks_to_report(options.data):
            if task.name in STABLE and PARTS[0] in (options.part or PARTS):
                found.setdefault(PARTS[0], []).extend(flips(task, options.data, cache))
            if task.name == HOST and PARTS[1] in (options.part or PARTS):
                found[PARTS[1]] = list(among_strangers(task, options.data, cache))
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    show(found.get(PARTS[0], []), ("task", "change"), COLUMNS, "The same cells in another query")
    columns = (*COLUMNS, "strangers Unknown")
    show(found.get(PARTS[1], []), ("strangers", "share", "verdict"), columns, f"Strangers among the cells; {HOST}")


if __name__ == "__main__":
    main()

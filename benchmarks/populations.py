"""Sorted and enriched cell types as queries: alone, and at 80% to 98% of a query, against their whole query.

    python benchmarks/populations.py --data DIR [--pair NAME ...] [--json FILE] [--cache DIR]

DIR holds the files that travel.py and pooled.py name. Of each type, 100 cells are a query of their own, then the larger
part of one that cells of the other types fill up. The figures are the shares of these cells that get their label, and
that of the same cells within the whole query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData, read_h5ad
from pooled import parts_by, zheng
from rich.table import Table
from studies import Task, kang, options_and_cache, parser_of, pbmc_3k, task_of
from travel import ASIDE, DEFAULT, console, see, shown, trained

from spikgpt import SpikGPT
from spikgpt.benchmark.suites import LABEL
from spikgpt.types import Rows

# Cells of a type that make up a sorted query, and the fewest that a type needs.
CELLS, FEWEST_CELLS = 100, 50
# Share of the query that is of the type.
SHARES = (1.0, 0.98, 0.95, 0.9, 0.8)
RULES = ("no rejection", ASIDE, DEFAULT)
WHOLE = "whole query"


def pairs(data: Path) -> Iterator[Task]:
    """Give the references and queries: other donors, other studies."""
    human = parts_by(read_h5ad(data / "pancreas_baron_human.h5ad"), "donor")
    yield task_of("pancreas: human1 to human3", human["human1"], human["human3"])
    blood = pbmc_3k(data)
    yield task_of("blood: 3k to sorted", blood, zheng(data))
    yield task_of("blood: 3k to Kang", blood, kang(data))
    retina = parts_by(read_h5ad(data / "retina_voigt_human.h5ad"), "donor")
    yield task_of("retina: donor1 to donor3", retina["donor1"], retina["donor3"])
    choroid = read_h5ad(data / "rpe_choroid_voigt_human.h5ad")
    second = (choroid.obs["donor"] == "donor2").to_numpy()
    yield task_of("choroid: donor2 to donors", choroid[second], choroid[~second])


def enriched(query: AnnData, cell_type: str, share: float) -> Rows:
    """Return the rows of a query in which a type makes up a share: its cells first, then cells of other types."""
    random = np.random.default_rng(0)
    own = (query.obs[LABEL] == cell_type).to_numpy()
    of_type, others = random.permutation(np.flatnonzero(own))[:CELLS], random.permutation(np.flatnonzero(~own))
    return np.concatenate([of_type, others[: round(len(of_type) * (1 - share) / share)]])


def populations(task: Task, model: SpikGPT) -> Iterator[dict[str, Any]]:
    """Measure each type of a query that has enough cells: within the whole query, then at each share of one."""
    truth, whole = task.query.obs[LABEL].astype(str).to_numpy(), see(model, task.query)
    counts = task.query.obs[LABEL].value_counts()
    for cell_type in sorted(counts.index[counts >= FEWEST_CELLS]):
        chosen = enriched(task.query, cell_type, 1.0)
        for share in (None, *SHARES):
            rows = chosen if share is None else enriched(task.query, cell_type, share)
            seen = whole if share is None else see(model, task.query[rows].copy())
            places = chosen if share is None else np.arange(len(chosen))
            right = seen.best[places] == truth[chosen]
            row: dict[str, Any] = {"pair": task.name, "type": cell_type, "share": share, "cells": len(chosen)}
            row |= {rule: float((right & ~seen.unknown[rule][places]).mean()) for rule in RULES}
            row["verdict"] = seen.verdict.kind if seen.verdict else None
            yield row | {"refused": bool(seen.verdict and not seen.verdict.usable)}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one table a rule: each type of a pair within the whole query and at each share, and where it is refused."""
    for rule in RULES:
        columns = (WHOLE, *(f"{100 * share:.0f}%" for share in SHARES))
        table = Table("pair", "type", "cells", *columns, "refused", title=f"Share of the type's cells right: {rule}")
        for pair, cell_type in dict.fromkeys((row["pair"], row["type"]) for row in rows):
            own = [row for row in rows if (row["pair"], row["type"]) == (pair, cell_type)]
            refused = sum(row["refused"] for row in own)
            table.add_row(pair, cell_type, str(own[0]["cells"]), *(shown(row[rule]) for row in own), str(refused))
        console.print(table)


def summary_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each rule and share: mean and worst share right, and of what the cells get in their whole query."""
    found = []
    whole = {(row["pair"], row["type"]): row for row in rows if row["share"] is None}
    for rule in RULES:
        for share in SHARES:
            asked = [row for row in rows if row["share"] == share]
            right = np.array([row[rule] for row in asked])
            # Labels without rejection in the whole query are what there is to reach.
            base = np.array([whole[row["pair"], row["type"]][RULES[0]] for row in asked])
            kept = right[base > 0] / base[base > 0]
            told = {
                "rule": rule,
                "share": share,
                "queries": len(asked),
                "refused": sum(row["refused"] for row in asked),
            }
            told |= {"mean": float(right.mean()), "worst": float(right.min()), "mean in whole": float(base.mean())}
            found.append(told | {"mean kept": float(kept.mean()), "worst kept": float(kept.min())})
    return found


def show_summary(summary: Sequence[dict[str, Any]]) -> None:
    """Print the means over all types and pairs."""
    figures = ("mean", "worst", "mean in whole", "mean kept", "worst kept")
    table = Table("rule", "share", "queries", "refused", *figures, title="All pairs")
    for row in summary:
        first = row["rule"], f"{100 * row['share']:.0f}%", str(row["queries"]), str(row["refused"])
        table.add_row(*first, *(shown(row[name]) for name in figures))
    console.print(table)


def main() -> None:
    """Measure the pairs, print their tables, and write what is measured after each pair."""
    parser = parser_of(__doc__)
    parser.add_argument("--pair", nargs="+", help="names of pairs; by default all")
    rows = list[dict[str, Any]]()
    with options_and_cache(parser) as (options, cache):
        for task in pairs(options.data):
            if options.pair and task.name not in options.pair:
                continue
            rows += populations(task, trained(task.reference, cache))
            if options.json:
                options.json.write_text(json.dumps({"rows": rows, "summary": summary_of(rows)}, indent=1) + "\n")
    show(rows)
    show_summary(summary_of(rows))


if __name__ == "__main__":
    main()

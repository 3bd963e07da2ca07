"""How well labels travel from study to study: all types known or one missing, all genes or a panel, and strangers.

    python benchmarks/travel.py --data DIR [--cells report|choose|pooled-report|pooled-choose] [--task NAME ...]
                                [--genes all 400 200 100] [--part settings --part strangers] [--complete] [--shared]
                                [--json FILE] [--cache DIR]

DIR holds pancreas_baron_human.h5ad, pancreas_baron_mouse.h5ad, pancreas_xin_980genes.h5ad, pbmc_10x_3k.h5ad,
pbmc_kang_ifnb.h5ad, lung_cancer_celllines_scmixology.h5ad and lung_nsclc_zilionis300.h5ad; for the pooled tasks also
pbmc_zheng_facs_human.h5ad, lung_balf_liao_human.h5ad, retina_voigt_human.h5ad and rpe_choroid_voigt_human.h5ad. Each
reference is trained on all its genes once, stored and loaded, whatever genes a query has. The one number of a setting
is the share of cells that are right: known cells with their label and not Unknown, cells of the missing type Unknown.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData, read_h5ad
from pooled import pooled_to_choose, pooled_to_report
from rich.console import Console
from rich.table import Table
from scipy import sparse
from studies import Task, options_and_cache, panel, parser_of, tasks_to_choose, tasks_to_report
from unknown import BELONGS, strangers_of

import spikgpt
from spikgpt import SpikGPT
from spikgpt.benchmark.suites import LABEL, batch_key_of, load_task
from spikgpt.cells.align import joined
from spikgpt.cells.obs import batches_of
from spikgpt.engines.torch import TorchEngine
from spikgpt.errors import DataError, GenesError
from spikgpt.options import AnnotateKeywords, AnnotateOptions, options_of
from spikgpt.scoring.compatibility import Compatibility
from spikgpt.scoring.rejection import fit_cutoffs
from spikgpt.training.metrics import measure, reliability, unknown_auroc
from spikgpt.training.train import score_all
from spikgpt.types import Bools, Floats, InputReport, Strings

PARTS = ("settings", "strangers")
TASKS = {
    "report": tasks_to_report,
    "choose": tasks_to_choose,
    "pooled-report": pooled_to_report,
    "pooled-choose": pooled_to_choose,
}
DEFAULT = "default"
RULES: dict[str, AnnotateKeywords] = {
    DEFAULT: {},
    "no rejection": {"unknown_rate": 0.0},
    "threshold 0.95": {"threshold": 0.95},
    "same study": {"same_study": True},
}
# The default rule where the verdict, which may make all cells Unknown, is set aside.
ASIDE = "verdict aside"
# Each figure of a setting, and which of two values is the worse.
FIGURES: dict[str, Callable[[list[float]], float]] = {
    **dict.fromkeys((f"right: {rule}" for rule in (*RULES, ASIDE, "oracle")), min),
    **dict.fromkeys(("known Unknown", f"known Unknown: {ASIDE}"), max),
    **dict.fromkeys(("unseen Unknown", f"unseen Unknown: {ASIDE}", "AUROC unseen"), min),
    **dict.fromkeys(("accuracy", "macro-F1", "AUROC wrong"), min),
    "calibration error": max,
}
SHARED = ("shared: accuracy", "shared: macro-F1")
# Of the package, what a stored reference depends on.
TRAINED_BY = ("cells", "embedding", "engines", "labels", "training", "pipeline.py")
# Columns of a table where there is no terminal.
WIDTH = 240
console = Console(width=None if sys.stdout.isatty() else WIDTH)


@dataclass(frozen=True)
class Seen:
    """What a reference says of n cells; an empty cell is Unknown by every rule, with the lowest confidence.

    ``best`` holds the best labels, ``confidence`` their probability, ``ood_score`` that of the default rule, and
    ``unknown`` for each of the :data:`RULES` and with the verdict aside which cells are Unknown; each of shape (n,).
    ``names`` are the labels.
    """

    names: tuple[str, ...]
    best: Strings
    confidence: Floats
    ood_score: Floats
    unknown: dict[str, Bools]
    verdict: Compatibility | None
    report: InputReport


def see(model: SpikGPT, query: AnnData) -> Seen:
    """Score the cells of a query once, as the pipeline does, and apply every rule to the scores.

    Raises
    ------
    GenesError
        When the query shares too few genes with the reference.
    """
    reference, engine = model.reference, model.engine
    assert isinstance(engine, TorchEngine)
    assert reference.familiarity is not None
    read = engine.embedding.read(query, layer=None, scaling="auto")
    cells, batches = joined(list(read.chunks)), batches_of(query, "auto").codes
    fitted, scores = score_all(engine, reference.familiarity, cells, neighbours=True, batches=batches, batch_key="auto")
    scores = replace(scores, probabilities=fitted.calibrated(reference.thresholds, scores.probabilities))

    def whole(values: npt.NDArray[Any], of_empty: Any) -> npt.NDArray[Any]:
        column = np.full(len(cells.totals), of_empty, dtype=values.dtype)
        column[~cells.empty] = values
        return column

    thresholds, names = reference.thresholds, reference.labels.names
    unknown, verdicts = {}, {}
    for name, rule in RULES.items():
        ruled = fitted.with_cutoffs(thresholds, names, options_of(AnnotateOptions, dict(rule)))
        assert ruled.cutoffs is not None
        unknown[name], verdicts[name] = whole(ruled.cutoffs.is_unknown(scores), True), ruled.verdict
    sample = fitted.calibrated(thresholds, fitted.scores.probabilities)
    sampled = replace(fitted.scores, probabilities=sample)
    known = {"smoothed": fitted.smoothed, "few_genes": fitted.report.few_genes}
    aside = fit_cutoffs(thresholds, AnnotateOptions(), names, sampled, fitted.support, **known)
    ood_score = aside.ood_scores(scores)
    assert ood_score is not None
    unknown[ASIDE] = whole(aside.is_unknown(scores), True)
    return Seen(
        names,
        whole(np.array(names)[scores.probabilities.argmax(axis=1)], ""),
        whole(scores.probabilities.max(axis=1), 0),
        whole(ood_score, np.inf),
        unknown,
        verdicts[DEFAULT],
        read.report,
    )


def key_of(cells: AnnData) -> str:
    """Return a name for the reference of some cells, which another training or other cells do not have."""
    package, found = Path(spikgpt.__file__).parent, hashlib.sha256()
    for part in TRAINED_BY:
        for path in sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]:
            found.update(path.read_bytes())
    values = sparse.csr_matrix(cells.X)
    for array in (values.data, values.indices, values.indptr):
        found.update(np.ascontiguousarray(array).tobytes())
    batch_key = batch_key_of(cells)
    columns = [cells.var_names, cells.obs[LABEL], cells.obs[batch_key] if batch_key else [""]]
    found.update(json.dumps([list(map(str, column)) for column in columns]).encode())
    return found.hexdigest()[:24]


def trained(cells: AnnData, cache: Path) -> SpikGPT:
    """Return the reference of some cells as it is stored; it is trained if it has not been."""
    folder = cache / key_of(cells)
    if not folder.exists():
        SpikGPT.train(cells, LABEL, batch_key=batch_key_of(cells)).save_pretrained(folder)
    return SpikGPT.from_pretrained(folder, engine="torch")


def share_right(right: Bools, known: Bools, unknown: Bools) -> float:
    """Return the share of cells that are known and have their label, or are unseen and Unknown."""
    return float(np.where(known, right & ~unknown, unknown).mean())


def oracle(ood_score: Floats, right: Bools, known: Bools) -> float:
    """Return the share right at the single cut-off on the OOD score that suits the truth best."""
    standing = -ood_score
    order = np.argsort(standing, kind="stable")
    gains = np.where(known, -(right.astype(int)), 1)[order]
    # Cells that stand alike fall on the same side.
    apart = np.concatenate([[True], standing[order][1:] > standing[order][:-1], [True]])
    reached = (right & known).sum() + np.concatenate([[0], np.cumsum(gains)])
    return float(reached[apart].max() / len(known))


def figures(seen: Seen, truth: Strings) -> dict[str, float | None]:
    """Return the :data:`FIGURES` of what is said of cells, given their labels; None where there are no such cells."""
    known, right = np.isin(truth, seen.names), seen.best == truth
    agreement = measure(truth[known], seen.best[known])
    both = [seen.unknown[rule] for rule in (DEFAULT, ASIDE)]
    measured = (
        *(share_right(right, known, unknown) for unknown in seen.unknown.values()),
        oracle(seen.ood_score, right, known),
        *(float(unknown[known].mean()) for unknown in both),
        *(None if known.all() else float(unknown[~known].mean()) for unknown in both),
        unknown_auroc(-seen.ood_score, known),
        agreement.accuracy,
        agreement.macro_f1,
        unknown_auroc(seen.confidence[known], right[known]),
        reliability(seen.confidence[known], right[known])["expected_calibration_error"],
    )
    return dict(zip(FIGURES, measured, strict=True))


def setting(model: SpikGPT, query: AnnData) -> dict[str, Any]:
    """Return what is measured of one query: genes found, verdict and figures; or that it was refused."""
    try:
        seen = see(model, query)
    except GenesError as error:
        return {"refused": str(error)}
    found = {"genes found": seen.report.genes_matched, "genes of reference": seen.report.genes_total}
    verdict = {"verdict": seen.verdict.kind, "evidence": seen.verdict.evidence} if seen.verdict else {}
    return {**found, **verdict, **figures(seen, query.obs[LABEL].astype(str).to_numpy())}


def on_shared_genes(reference: AnnData, query: AnnData, cache: Path) -> dict[str, float]:
    """Return what a reference reaches that was trained for the genes of the query, if it could be trained on them."""
    shared = reference.var_names.isin(query.var_names)
    if shared.all():
        return {}
    try:
        seen = see(trained(reference[:, shared].copy(), cache), query)
    except DataError:
        return {}
    truth = query.obs[LABEL].astype(str).to_numpy()
    known = np.isin(truth, seen.names)
    agreement = measure(truth[known], seen.best[known])
    return dict(zip(SHARED, (agreement.accuracy, agreement.macro_f1), strict=True))


def settings_of(
    task: Task, genes: Sequence[int | None], cache: Path, *, complete: bool, shared: bool
) -> Iterator[dict[str, Any]]:
    """Measure a task: nothing missing, then each type unless it is to be complete; all genes or some, None for all."""
    queries = {number: task.query if number is None else panel(task.query, number) for number in genes}
    for left_out in (None, *(() if complete else task.types)):
        reference, _ = task.without(left_out)
        model = trained(reference, cache)
        for number, query in queries.items():
            row = {"task": task.name, "left out": left_out, "genes": number, "cells": query.n_obs}
            row |= setting(model, query)
            if shared and left_out is None:
                row |= on_shared_genes(reference, query, cache)
            yield row


def shown(value: float | None) -> str:
    """Return a figure as text."""
    return "-" if value is None else f"{value:.3f}"


def short(row: dict[str, Any]) -> str:
    """Return the first words of a verdict."""
    return str(row.get("verdict", "-")).split(",")[0]


def columns_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the figures that some rows have."""
    return [*FIGURES, *(name for name in SHARED if any(name in row for row in rows))]


def show(task: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of a task."""
    names = columns_of(rows)
    table = Table("genes", "found", "left out", *names, "verdict", title=f"{task}: {rows[0]['cells']} cells")
    for row in rows:
        found = str(row.get("genes found", "-"))
        verdict = "refused" if "refused" in row else short(row)
        values = (shown(row.get(name)) for name in names)
        table.add_row(str(row["genes"] or "all"), found, row["left out"] or "nothing", *values, verdict)
    console.print(table)


def summary_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means over settings and over tasks and the worst settings, by number of genes and by what is missing.

    A setting that was refused counts for what is reached on shared genes alone.
    """
    found = []
    for number in dict.fromkeys(row["genes"] for row in rows):
        for missing in (False, True):
            asked = [row for row in rows if row["genes"] == number and (row["left out"] is not None) == missing]
            kept = [row for row in asked if "refused" not in row]
            if not asked:
                continue
            told = {"genes": number, "missing": "one type" if missing else "nothing"}
            told |= {"settings": len(asked), "refused": len(asked) - len(kept)}
            tasks = list(dict.fromkeys(row["task"] for row in asked))
            lines: dict[str, dict[str, float]] = {"mean": {}, "of tasks": {}, "worst": {}}
            for name in columns_of(asked):
                of_tasks = [_values([row for row in asked if row["task"] == task], name) for task in tasks]
                means = [float(np.mean(values)) for values in of_tasks if values]
                if values := _values(asked, name):
                    columns = float(np.mean(values)), float(np.mean(means)), FIGURES.get(name, min)(values)
                    for line, value in zip(lines.values(), columns, strict=True):
                        line[name] = value
            found += [{**told, "of": of, **line} for of, line in lines.items()]
    return found


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return a figure of the rows that have it."""
    return [row[name] for row in rows if row.get(name) is not None]


def show_summary(rows: Sequence[dict[str, Any]]) -> None:
    """Print the summary of all tasks."""
    names = columns_of(rows)
    table = Table("genes", "missing", "settings", "refused", "", *names, title="All tasks")
    for row in rows:
        first = str(row["genes"] or "all"), row["missing"], str(row["settings"]), str(row["refused"]), row["of"]
        table.add_row(*first, *(shown(row.get(name)) for name in names))
    console.print(table)


def strangers(data: Path, cache: Path) -> list[dict[str, Any]]:
    """Ask a human pancreas reference about cells that it has no label for, and about those among cells that it has."""
    cells, query = load_task("baron", data)
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    model = trained(human[human.obs_names.isin(cells.obs_names)].copy(), cache)
    rules = [rule for rule in (*RULES, ASIDE) if rule not in RULES or RULES[rule].get("unknown_rate") != 0]
    parts = {"strangers": False, "others": True}
    headings = [f"{part}: {rule}" for part in parts for rule in rules]
    table = Table("cells", "number", *headings, "verdict", title="Share Unknown; human pancreas, human1 and human3")
    rows = []
    for name, asked in strangers_of(data, human[human.obs_names.isin(query.obs_names)].copy()):
        seen, belongs = see(model, asked), asked.obs[BELONGS].to_numpy()
        row: dict[str, Any] = {"cells": name, "number": asked.n_obs}
        for part, kind in parts.items():
            for rule in rules:
                group = seen.unknown[rule][belongs == kind]
                row[f"{part}: {rule}"] = float(group.mean()) if len(group) else None
        rows.append(row | {"verdict": seen.verdict.kind, "evidence": seen.verdict.evidence} if seen.verdict else row)
        table.add_row(name, str(asked.n_obs), *(shown(row[key]) for key in headings), short(rows[-1]))
    console.print(table)
    return rows


def genes_of(text: str) -> int | None:
    """Return the number of genes of a panel; None for all."""
    return None if text == "all" else int(text)


def main() -> None:
    """Run the parts that are asked for, print their tables, and write what is measured after each task."""
    parser = parser_of(__doc__)
    parser.add_argument("--cells", choices=list(TASKS), default="report", help="tasks to report or to choose on")
    parser.add_argument("--task", nargs="+", help="names of tasks; by default all")
    parser.add_argument("--genes", nargs="+", type=genes_of, default=[None, 400, 200, 100], metavar="NUMBER")
    parser.add_argument("--complete", action="store_true", help="leave no type out")
    parser.add_argument("--shared", action="store_true", help="train on the shared genes too, with nothing missing")
    parser.add_argument("--part", action="append", choices=PARTS)
    with options_and_cache(parser) as (options, cache):
        data, results, rows = options.data, dict[str, Any](), list[dict[str, Any]]()

        def keep(name: str, result: Any) -> None:
            results[name] = result
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")

        for task in TASKS[options.cells](data) if "settings" in (options.part or PARTS) else ():
            if options.task and task.name not in options.task:
                continue
            measured = list(settings_of(task, options.genes, cache, complete=options.complete, shared=options.shared))
            show(task.name, measured)
            keep("settings", rows := rows + measured)
            keep("summary", summary_of(rows))
        if rows:
            show_summary(results["summary"])
        if "strangers" in (options.part or PARTS):
            keep("strangers", strangers(data, cache))


if __name__ == "__main__":
    main()

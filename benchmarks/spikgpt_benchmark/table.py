"""Table of a benchmark: one row for each method and task, as JSON, CSV and Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import psutil

from spikgpt.options import cores
from spikgpt.types import Bools
from spikgpt.version import __version__
from spikgpt_benchmark.measures import mcnemar_p, score_result
from spikgpt_benchmark.methods import Method
from spikgpt_benchmark.run import DONE, BenchmarkPlan, BenchmarkRun
from spikgpt_benchmark.task import LABEL, BenchmarkTask

FIRST, NEAR = "first", "within one standard error of first"
# Figures that methods are ranked by, shown with their standard deviation over seeds; larger is better.
RANKED = ("accuracy", "macro_f1", "open_set_accuracy", "auroc_unseen")
# Columns of the Markdown table: heading, figure and format.
COLUMNS = (
    ("accuracy", "accuracy", "{:.3f}"),
    ("macro-F1", "macro_f1", "{:.3f}"),
    ("open-set accuracy", "open_set_accuracy", "{:.3f}"),
    ("AUROC unseen", "auroc_unseen", "{:.3f}"),
    ("macro precision", "macro_precision", "{:.3f}"),
    ("macro recall", "macro_recall", "{:.3f}"),
    ("assigned", "share_assigned", "{:.1%}"),
    ("accuracy of assigned", "accuracy_of_assigned", "{:.3f}"),
    ("known rejected", "rejected_known", "{:.1%}"),
    ("unseen rejected", "rejected_unseen", "{:.1%}"),
    ("calibration error", "calibration_error", "{:.3f}"),
    ("train, s", "train_seconds", "{:.1f}"),
    ("predict, s", "predict_seconds", "{:.1f}"),
    ("memory, GB", "peak_gigabytes", "{:.2f}"),
)
# Figures that are shown only for methods that can reject cells.
OF_REJECTION = ("share_assigned", "accuracy_of_assigned", "rejected_known", "rejected_unseen")
LEGEND = (
    "**bold**: first; ≈: within one standard error of first. ±: standard deviation over seeds. Labels are compared "
    "before rejection, over the cells whose type the reference has. Open-set accuracy counts all cells after "
    "rejection, at each method's own cut-off; methods that cannot reject have it in brackets and are not ranked by it. "
    "Balanced accuracy is the macro recall. The last column holds the p-value of McNemar's exact test against the best "
    "other method, for the labels of the first seed."
)


@dataclass(frozen=True)
class ResultRow:
    """Row of the table: one method on one task.

    Attributes
    ----------
    note
        Reason for missing figures or seeds; empty if nothing is missing.
    means, spreads, errors
        Mean and standard deviation of each figure over seeds, and standard error over the cells.
    per_label
        F1 of each type, mean over seeds.
    rival, p
        Title of the most accurate other method, and the p-value of McNemar's test between the two methods.
    ranks
        For each ranked figure: first, within one standard error of first, or empty.
    """

    task: str
    method: str
    title: str
    rejects: bool
    licence: str = ""
    citation: str = ""
    note: str = ""
    seeds: int = 0
    means: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    per_label: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    rival: str = ""
    p: float | None = None
    ranks: dict[str, str] = field(default_factory=dict)

    def is_ranked_by(self, figure: str) -> bool:
        """Return True if the method takes part in the ranking by a figure."""
        return figure in self.means and (self.rejects or figure != "open_set_accuracy")


def build_rows(task: BenchmarkTask, methods: Sequence[Method], runs: Sequence[BenchmarkRun]) -> list[ResultRow]:
    """Return the rows of a task, the most accurate method first and methods without figures last."""
    own = {
        method.name: [run for run in runs if (run.task, run.method) == (task.name, method.name)] for method in methods
    }
    rows = [_build_row(task, method, own[method.name]) for method in methods if own[method.name]]
    right = {name: _right_cells(task, own_runs) for name, own_runs in own.items()}
    modules = {method.name: method.module for method in methods}
    ranked = [_compare_with_rival(_rank(row, rows), rows, right, modules) for row in rows]
    return sorted(ranked, key=lambda row: -row.means.get("accuracy", -1.0))


def _build_row(task: BenchmarkTask, method: Method, runs: Sequence[BenchmarkRun]) -> ResultRow:
    """Return the row of a method, without its ranks."""
    row = ResultRow(task.name, method.name, method.title, method.rejects, method.licence, method.citation)
    done = [run for run in runs if run.result is not None]
    results = [run.result for run in done if run.result is not None]
    notes = [run.note for run in runs if run.note != DONE]
    if not results:
        return replace(row, note=notes[0])
    scores = [score_result(task, result) for result in results]
    memory = [run.peak_bytes / 1e9 for run in done]
    figures = pd.DataFrame([score.figures for score in scores]).assign(peak_gigabytes=memory).dropna(axis=1)
    f1 = pd.DataFrame([{label.label: label.f1 for label in score.agreement.per_label} for score in scores])
    return replace(
        row,
        rejects=any(result.assigned is not None for result in results),
        note=f"with a further seed {notes[0]}" if notes else "",
        seeds=len(results),
        means=_to_dict(figures.astype(float).mean()),
        spreads=_to_dict(figures.astype(float).std(ddof=0)),
        errors=scores[0].errors,
        per_label=_to_dict(f1.mean()),
        versions=dict(results[0].versions),
    )


def _to_dict(values: pd.Series[float]) -> dict[str, float]:
    """Return the values of a series by name."""
    return {str(name): float(value) for name, value in values.items()}


def _right_cells(task: BenchmarkTask, runs: Sequence[BenchmarkRun]) -> Bools | None:
    """Return whether each cell of a known type has its true label in a method's first run; None without a run."""
    results = [run.result for run in runs if run.result is not None]
    return (results[0].labels == task.truth)[task.known] if results else None


def _rank(row: ResultRow, rows: Sequence[ResultRow]) -> ResultRow:
    """Return a row with its rank by each figure."""
    ranks = {}
    for name in filter(row.is_ranked_by, RANKED):
        best = max((other for other in rows if other.is_ranked_by(name)), key=lambda other: other.means[name])
        behind = best.means[name] - row.means[name]
        ranks[name] = FIRST if behind <= 0 else NEAR if behind <= best.errors.get(name, 0.0) else ""
    return replace(row, ranks=ranks)


def _compare_with_rival(
    row: ResultRow, rows: Sequence[ResultRow], right: dict[str, Bools | None], modules: dict[str, str]
) -> ResultRow:
    """Return a row with its rival, the most accurate method of another module, and the p-value against the rival."""
    rivals = [other for other in rows if other.means and modules[other.method] != modules[row.method]]
    own = right[row.method]
    if own is None or not rivals:
        return row
    best = max(rivals, key=lambda other: other.means["accuracy"])
    against = right[best.method]
    assert against is not None
    return replace(row, rival=best.title, p=mcnemar_p(own, against))


def describe_tasks(tasks: Iterable[BenchmarkTask]) -> list[dict[str, Any]]:
    """Return the sizes and sources of the tasks, as plain JSON values."""
    return [
        {
            "task": task.name,
            "reference_cells": task.reference.n_obs,
            "query_cells": task.query.n_obs,
            "known_cells": int(task.known.sum()),
            "genes": task.reference.n_vars,
            "types_of_reference": int(task.reference.obs[LABEL].nunique()),
            "types_of_query": len(np.unique(task.truth)),
            "left_out": task.left_out,
            "query_values": task.query_values,
            "digest": task.digest,
            "paper": task.paper,
        }
        for task in tasks
    ]


def conditions(plan: BenchmarkPlan) -> dict[str, Any]:
    """Return date, machine and settings of a benchmark, as plain JSON values."""
    memory = psutil.virtual_memory().total / 1e9
    system = f"{platform.system()}, Python {platform.python_version()}"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "spikgpt": __version__,
        "seeds": plan.seeds,
        "threads": plan.threads,
        "time_limit_seconds": plan.limits.seconds,
        "memory_limit_gigabytes": plan.limits.gigabytes,
        "machine": f"{cores()} cores ({_processor()}), {memory:.0f} GB of memory, {system}",
    }


def _processor() -> str:
    """Return the name of the processor, from the kernel on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next(iter(names), "") or platform.processor() or platform.machine()


def as_json(rows: Sequence[ResultRow], tasks: Sequence[BenchmarkTask], plan: BenchmarkPlan) -> dict[str, Any]:
    """Return rows, tasks and conditions as plain JSON values."""
    return {"conditions": conditions(plan), "tasks": describe_tasks(tasks), "rows": [asdict(row) for row in rows]}


def as_frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Return a table with a line for each row, and columns for the mean, deviation and error of each figure."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"task": row.task, "method": row.method, "title": row.title, "seeds": row.seeds}
        for name, mean in row.means.items():
            line |= {name: mean, f"{name}_sd": row.spreads[name]}
        line |= {f"{name}_se": error for name, error in row.errors.items()}
        line |= {f"f1: {label}": score for label, score in row.per_label.items()}
        line |= {f"{name}_place": rank for name, rank in row.ranks.items()}
        lines.append(line | {"best_other": row.rival, "p": row.p, "versions": _versions(row), "note": row.note})
    return pd.DataFrame(lines)


def as_markdown(rows: Sequence[ResultRow], tasks: Sequence[BenchmarkTask], plan: BenchmarkPlan) -> str:
    """Return a table for each task, and the conditions of the benchmark."""
    parts = ["# Benchmark", ""]
    for about in describe_tasks(tasks):
        parts += [f"## {about['task']}", "", _describe(about), ""]
        parts += [*_lines(table_cells([row for row in rows if row.task == about["task"]], about["paper"])), ""]
    parts += [LEGEND, "", "## Methods", "", *_lines(method_cells(rows)), "", condition_text(plan)]
    return "\n".join(parts) + "\n"


def condition_text(plan: BenchmarkPlan) -> str:
    """Return the conditions of a benchmark as sentences."""
    about = conditions(plan)
    limits = f"{about['time_limit_seconds']:.0f} s and {about['memory_limit_gigabytes']:.1f} GB"
    first = f"{about['date']}, SpikGPT {about['spikgpt']}, seeds: {about['seeds']}, threads: {about['threads']}"
    return f"{first}, limits: {limits}. {about['machine']}."


def table_cells(rows: Sequence[ResultRow], paper: str = "") -> list[list[str]]:
    """Return the texts of a results table, the header row first; columns without any value are left out."""
    shown = [column for column in COLUMNS if column[1] == "accuracy" or any(column[1] in row.means for row in rows)]
    heading = ["method", *(name for name, _, _ in shown), "seeds", "against the best other"]
    cells = [heading]
    for row in rows:
        if not row.means:
            cells.append([row.title, row.note, *[""] * (len(heading) - 2)])
            continue
        rival = "" if row.p is None else f"{row.rival}: p {row.p:.2g}"
        title = f"{row.title} ({row.note})" if row.note else row.title
        cells.append([title, *(_cell(row, *column[1:]) for column in shown), str(row.seeds), rival])
    if paper:
        cells.append(["SpikGPT, as the paper reports it", paper, *[""] * (len(heading) - 2)])
    return cells


def method_cells(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Return the texts of the table of methods, the header row first: versions, licence and citation."""
    cells = {}
    for row in rows:
        if row.versions or row.method not in cells:
            cells[row.method] = [row.title, _versions(row) or "-", row.licence or "-", row.citation or "-"]
    return [["method", "versions", "licence", "published in"], *cells.values()]


def _versions(row: ResultRow) -> str:
    """Return the versions of the packages of a method as text."""
    return ", ".join(f"{package} {version}" for package, version in sorted(row.versions.items()))


def _cell(row: ResultRow, name: str, form: str) -> str:
    """Return the text of one figure of a row; ``-`` without a value."""
    if name not in row.means or (name in OF_REJECTION and not row.rejects):
        return "-"
    text = form.format(row.means[name])
    if name in RANKED and row.seeds > 1:
        text += f" ± {form.format(row.spreads[name])}"
    if name == "open_set_accuracy" and not row.rejects:
        return f"({text})"
    rank = row.ranks.get(name, "")
    return f"**{text}**" if rank == FIRST else f"{text} ≈" if rank == NEAR else text


def _describe(about: dict[str, Any]) -> str:
    """Return the sizes of a task as sentences."""
    unseen = about["query_cells"] - about["known_cells"]
    text = (
        f"{about['reference_cells']} cells of {about['types_of_reference']} types to learn from, "
        f"{about['query_cells']} cells of {about['types_of_query']} types to label, {about['genes']} shared genes."
    )
    return text + (f" {unseen} cells are of types that the reference does not have." if unseen else "")


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]
    return [rows[0], f"|{'---|' * len(cells[0])}", *rows[1:]]

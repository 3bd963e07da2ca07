"""The table of a benchmark: one row for each method and task, as JSON, CSV and Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import psutil

from spikgpt.benchmark.measures import Measured, measure_answer, paired_p
from spikgpt.benchmark.methods import Method
from spikgpt.benchmark.run import DONE, Plan, Run
from spikgpt.benchmark.task import LABEL, Task
from spikgpt.options import cores
from spikgpt.types import Bools
from spikgpt.version import __version__

# What methods are ranked by; all are the better the larger.
RANKED = ("accuracy", "macro_f1", "share_right", "auroc_unseen")
FIRST, NEAR = "first", "within one standard error of first"
# Columns of the Markdown table: heading, figure, and how it is written.
COLUMNS = (
    ("accuracy", "accuracy", "{:.3f}"),
    ("macro-F1", "macro_f1", "{:.3f}"),
    ("share right", "share_right", "{:.3f}"),
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
# What is given with its standard deviation over seeds.
WITH_SPREAD = ("accuracy", "macro_f1", "share_right", "auroc_unseen")
# Figures that say something of methods that can reject alone.
OF_REJECTION = ("share_assigned", "accuracy_of_assigned", "rejected_known", "rejected_unseen")
LEGEND = (
    "**bold**: first; ≈: within one standard error of first. ±: standard deviation over seeds. Labels are compared "
    "before rejection, over the cells whose type the reference has; share right counts all cells after rejection, at "
    "each method's own cut-off, and stands in brackets for methods that cannot reject, which are not ranked by it. "
    "Balanced accuracy is the macro recall. The last column holds the p of McNemar's exact test of the first seed's "
    "labels against those of the best other method."
)


@dataclass(frozen=True)
class Row:
    """A method on a task.

    Attributes
    ----------
    note
        Why there are no figures, or not of all seeds; empty where nothing is missing.
    means, spreads, errors
        Of each figure: mean and standard deviation over seeds, and standard error over the cells.
    per_label
        F1 of each type, mean over seeds.
    rival, p
        The best other method by accuracy, and the p of a paired test against it.
    places
        Of each figure that methods are ranked by: first, within one standard error of first, or empty.
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
    places: dict[str, str] = field(default_factory=dict)


def rows_of(task: Task, methods: Sequence[Method], runs: Sequence[Run]) -> list[Row]:
    """Return the rows of a task, the most accurate first and those without figures last."""
    mine = {
        method.name: [run for run in runs if run.task == task.name and run.method == method.name] for method in methods
    }
    rows = [_row(task, method, mine[method.name]) for method in methods if mine[method.name]]
    right = {name: _right(task, found) for name, found in mine.items()}
    modules = {method.name: method.module for method in methods}
    ranked = [_with_rival(_placed(row, rows), rows, right, modules) for row in rows]
    return sorted(ranked, key=lambda row: -row.means.get("accuracy", -1.0))


def _row(task: Task, method: Method, runs: Sequence[Run]) -> Row:
    """Return the row of a method, not ranked yet."""
    told = Row(task.name, method.name, method.title, method.rejects, method.licence, method.citation)
    done = [run for run in runs if run.answer is not None]
    notes = [run.note for run in runs if run.note != DONE]
    if not done:
        return replace(told, note=notes[0])
    measured = [measure_answer(task, run.answer) for run in done if run.answer is not None]
    figures = [
        found.figures | {"peak_gigabytes": run.peak_bytes / 1e9} for found, run in zip(measured, done, strict=True)
    ]
    values = {name: [figure[name] for figure in figures] for name in figures[0]}
    numbers = {name: np.array(found, dtype=float) for name, found in values.items() if None not in found}
    return replace(
        told,
        rejects=any(run.answer.assigned is not None for run in done if run.answer is not None),
        note=f"with a further seed {notes[0]}" if notes else "",
        seeds=len(done),
        means={name: float(found.mean()) for name, found in numbers.items()},
        spreads={name: float(found.std()) for name, found in numbers.items()},
        errors=measured[0].errors,
        per_label=_per_label(measured),
        versions=dict(done[0].answer.versions) if done[0].answer else {},
    )


def _per_label(measured: Sequence[Measured]) -> dict[str, float]:
    """Return the mean F1 of each type."""
    scores = [{score.label: score.f1 for score in found.agreement.per_label} for found in measured]
    return {label: float(np.mean([score[label] for score in scores])) for label in scores[0]}


def _right(task: Task, runs: Sequence[Run]) -> Bools | None:
    """Return which cells of known types a method's first run labels right; None where there is none."""
    answers = [run.answer for run in runs if run.answer is not None]
    return (answers[0].labels == task.truth)[task.known] if answers else None


def _placed(row: Row, rows: Sequence[Row]) -> Row:
    """Return a row that says in what it is first, or nearly."""
    places = {}
    for name in RANKED:
        if name not in row.means or (name == "share_right" and not row.rejects):
            continue
        best = max(
            (other for other in rows if name in other.means and (other.rejects or name != "share_right")),
            key=lambda other: other.means[name],
        )
        behind = best.means[name] - row.means[name]
        places[name] = FIRST if behind <= 0 else NEAR if behind <= best.errors.get(name, 0.0) else ""
    return replace(row, places=places)


def _with_rival(row: Row, rows: Sequence[Row], right: dict[str, Bools | None], modules: dict[str, str]) -> Row:
    """Return a row that is held against the best method of another kind."""
    others = [other for other in rows if other.means and modules[other.method] != modules[row.method]]
    own = right[row.method]
    if own is None or not others:
        return row
    best = max(others, key=lambda other: other.means["accuracy"])
    against = right[best.method]
    assert against is not None
    return replace(row, rival=best.title, p=paired_p(own, against))


def about_tasks(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Return what the tasks are made of, as plain JSON values."""
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


def conditions(plan: Plan) -> dict[str, Any]:
    """Return when, where and how a benchmark ran, as plain JSON values."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "spikgpt": __version__,
        "seeds": plan.seeds,
        "threads": plan.threads,
        "time_limit_seconds": plan.limits.seconds,
        "memory_limit_gigabytes": plan.limits.gigabytes,
        "machine": machine(),
    }


def machine() -> str:
    """Say on what machine this runs."""
    memory = psutil.virtual_memory().total / 1e9
    chip = platform.processor() or platform.machine()
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{cores()} cores ({_chip() or chip}), {memory:.0f} GB of memory, {system}"


def _chip() -> str:
    """Return the name of the processor, where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        return ""
    return names[0] if names else ""


def as_json(rows: Sequence[Row], tasks: Sequence[Task], plan: Plan) -> dict[str, Any]:
    """Return all that was found, as plain JSON values."""
    return {"conditions": conditions(plan), "tasks": about_tasks(tasks), "rows": [asdict(row) for row in rows]}


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return one line for each row, with a column for each figure and for its spread."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"task": row.task, "method": row.method, "title": row.title, "seeds": row.seeds}
        for name, mean in row.means.items():
            line |= {name: mean, f"{name}_sd": row.spreads[name]}
        line |= {f"{name}_se": error for name, error in row.errors.items()}
        line |= {f"f1: {label}": score for label, score in row.per_label.items()}
        line |= {f"{name}_place": place for name, place in row.places.items()}
        versions = ", ".join(f"{package} {version}" for package, version in row.versions.items())
        lines.append(line | {"best_other": row.rival, "p": row.p, "versions": versions, "note": row.note})
    return pd.DataFrame(lines)


def as_markdown(rows: Sequence[Row], tasks: Sequence[Task], plan: Plan) -> str:
    """Return a table for each task, and under what conditions it was made."""
    told = conditions(plan)
    parts = ["# Benchmark", ""]
    for about in about_tasks(tasks):
        parts += [f"## {about['task']}", "", _sentence(about), ""]
        parts += [*_lines(cells_of([row for row in rows if row.task == about["task"]], about["paper"])), ""]
    parts += [LEGEND, "", "## Methods", "", *_lines(methods_of(rows)), ""]
    parts += [
        f"{told['date']}, SpikGPT {told['spikgpt']}, seeds: {told['seeds']}, threads: {told['threads']}, limits: "
        f"{told['time_limit_seconds']:.0f} s and {told['memory_limit_gigabytes']:.1f} GB. {told['machine']}.",
    ]
    return "\n".join(parts) + "\n"


def cells_of(rows: Sequence[Row], paper: str = "") -> list[list[str]]:
    """Return the cells of a table, its heading first; columns that no method has are left out."""
    shown = [column for column in COLUMNS if column[1] == "accuracy" or any(column[1] in row.means for row in rows)]
    heading = ["method", *(name for name, _, _ in shown), "seeds", "against the best other"]
    found = [heading]
    for row in rows:
        if not row.means:
            found.append([row.title, row.note, *[""] * (len(heading) - 2)])
            continue
        told = "" if row.p is None else f"{row.rival}: p {row.p:.2g}"
        title = f"{row.title} ({row.note})" if row.note else row.title
        found.append([title, *(_cell(row, *column[1:]) for column in shown), str(row.seeds), told])
    if paper:
        found.append(["SpikGPT, as the paper reports it", paper, *[""] * (len(heading) - 2)])
    return found


def methods_of(rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells of a table of the methods, its heading first: what ran, and where it is published."""
    found = {}
    for row in rows:
        versions = ", ".join(f"{package} {version}" for package, version in sorted(row.versions.items()))
        if versions or row.method not in found:
            found[row.method] = [row.title, versions or "-", row.licence or "-", row.citation or "-"]
    return [["method", "versions", "licence", "published in"], *found.values()]


def _cell(row: Row, name: str, form: str) -> str:
    """Return a figure as the table shows it."""
    if name not in row.means or (name in OF_REJECTION and not row.rejects):
        return "-"
    text = form.format(row.means[name])
    if name in WITH_SPREAD and row.seeds > 1:
        text += f" ± {form.format(row.spreads[name])}"
    if name == "share_right" and not row.rejects:
        return f"({text})"
    place = row.places.get(name, "")
    return f"**{text}**" if place == FIRST else f"{text} ≈" if place == NEAR else text


def _sentence(about: dict[str, Any]) -> str:
    """Say what a task is made of."""
    unseen = about["query_cells"] - about["known_cells"]
    told = (
        f"{about['reference_cells']} cells of {about['types_of_reference']} types to learn from, "
        f"{about['query_cells']} cells of {about['types_of_query']} types to label, {about['genes']} shared genes."
    )
    return told + (f" {unseen} cells are of types that the reference does not have." if unseen else "")


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as Markdown."""
    rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]
    return [rows[0], f"|{'---|' * len(cells[0])}", *rows[1:]]

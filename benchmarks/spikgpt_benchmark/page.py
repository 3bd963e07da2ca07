"""Report of a benchmark: tables, figures, and one page that holds all of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from spikgpt.cells.output import write_csv
from spikgpt.files import replacing
from spikgpt.reference.pictures import confusion_picture
from spikgpt.training.metrics import measure
from spikgpt_benchmark.figures import bars_picture, label_colors, labels_picture, time_picture, umap_coordinates
from spikgpt_benchmark.measures import labels_after_rejection
from spikgpt_benchmark.methods import Method
from spikgpt_benchmark.run import BenchmarkPlan, BenchmarkRun
from spikgpt_benchmark.table import (
    LEGEND,
    ResultRow,
    as_frame,
    as_json,
    as_markdown,
    build_rows,
    condition_text,
    method_cells,
    table_cells,
)
from spikgpt_benchmark.task import BenchmarkTask

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
td + td, th + th { text-align: right; }
td.note { text-align: left; color: #666; }
img { max-width: 100%; }
summary { cursor: pointer; padding: .3rem 0; }
"""


@dataclass(frozen=True)
class Picture:
    """PNG picture of one method on one task; ``method`` is empty for a picture of all methods."""

    task: str
    method: str
    kind: str
    content: bytes

    @property
    def file(self) -> str:
        """The name of the picture's file."""
        return "-".join(filter(None, (self.task, self.method, self.kind))).replace(" ", "_") + ".png"

    @property
    def html(self) -> str:
        """The picture as HTML, with its bytes inside."""
        text = escape(f"{self.kind} of {self.method or 'all methods'} on {self.task}")
        return f'<p><img alt="{text}" src="data:image/png;base64,{base64.b64encode(self.content).decode()}"></p>'


def write_report(
    tasks: Sequence[BenchmarkTask], methods: Sequence[Method], runs: Sequence[BenchmarkRun], plan: BenchmarkPlan
) -> list[ResultRow]:
    """Write ``results.json``, ``results.csv``, ``results.md``, ``report.html`` and ``figures/``; return the rows."""
    rows, folder = [row for task in tasks for row in build_rows(task, methods, runs)], plan.folder
    pictures: list[Picture] = []
    for task in tasks:
        pictures += draw_pictures(task, [row for row in rows if row.task == task.name], runs, folder / "positions")
    with replacing(folder / "figures") as temporary:
        temporary.mkdir()
        for picture in pictures:
            (temporary / picture.file).write_bytes(picture.content)
    texts = {
        "results.json": json.dumps(as_json(rows, tasks, plan), indent=1) + "\n",
        "results.md": as_markdown(rows, tasks, plan),
        "report.html": as_html(rows, tasks, plan, pictures),
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_csv([as_frame(rows)], folder / "results.csv", index=False)
    return rows


def draw_pictures(
    task: BenchmarkTask, rows: Sequence[ResultRow], runs: Sequence[BenchmarkRun], cache: Path
) -> Iterator[Picture]:
    """Yield the pictures of a task: first of all methods, then of each method with its first seed.

    ``cache`` is the folder that keeps the UMAP coordinates.
    """
    if not any(row.means for row in rows):
        return
    yield Picture(task.name, "", "bars", bars_picture(task.name, rows))
    yield Picture(task.name, "", "time", time_picture(task.name, rows))
    coordinates, colors, known = umap_coordinates(task, cache), label_colors(task), task.known
    for row in rows:
        results = [run.result for run in runs if (run.task, run.method) == (task.name, row.method) and run.result]
        if not results:
            continue
        labels = labels_after_rejection(results[0])
        umap = labels_picture(f"{task.name}: {row.title}", coordinates, task.truth, labels, colors)
        yield Picture(task.name, row.method, "umap", umap)
        confusion = measure(task.truth[known], results[0].labels[known]).to_dict()["confusion"]
        yield Picture(task.name, row.method, "confusion", confusion_picture(confusion))


def as_html(
    rows: Sequence[ResultRow], tasks: Sequence[BenchmarkTask], plan: BenchmarkPlan, pictures: Sequence[Picture]
) -> str:
    """Return the report as one HTML page that needs no other file."""
    parts = ["<!doctype html>", '<html lang="en">', '<meta charset="utf-8">', "<title>Benchmark</title>"]
    parts += [f"<style>{STYLE}</style>", "<h1>Benchmark</h1>"]
    parts += [f"<p>{escape(condition_text(plan))}</p>", f"<p>{_bold(LEGEND)}</p>"]
    for task in tasks:
        own = [row for row in rows if row.task == task.name]
        images: dict[str, str] = {}
        for picture in pictures:
            if picture.task == task.name:
                images[picture.method] = images.get(picture.method, "") + picture.html
        parts += [f"<h2>{escape(task.name)}</h2>", _table(table_cells(own, task.paper)), images.get("", "")]
        for row in own:
            if row.method in images:
                f1 = [["type", *row.per_label], ["F1", *(f"{score:.3f}" for score in row.per_label.values())]]
                summary = f"<summary>{escape(row.title)}</summary>"
                parts.append(f"<details>{summary}{images[row.method]}{_table(f1)}</details>")
    parts += ["<h2>Methods</h2>", _table(method_cells(rows)), "</html>"]
    return "\n".join(parts) + "\n"


def _table(cells: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; if a row has only one text beside its name, this text spans all columns."""
    heading, *lines = cells
    rows = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in heading)}</tr>"]
    for name, first, *rest in lines:
        if any(rest):
            figures = "".join(f"<td>{_bold(cell)}</td>" for cell in (first, *rest))
        else:
            figures = f'<td class="note" colspan="{len(rest) + 1}">{escape(first)}</td>'
        rows.append(f"<tr><td>{escape(name)}</td>{figures}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _bold(text: str) -> str:
    """Return a text as HTML; words between ``**`` and ``**`` become bold."""
    pieces = escape(text).split("**")
    return "".join(f"<b>{piece}</b>" if number % 2 else piece for number, piece in enumerate(pieces))

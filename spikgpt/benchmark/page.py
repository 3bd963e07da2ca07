"""The report of a benchmark: files of the table, pictures, and one page that holds all of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from spikgpt.benchmark.figures import bars_picture, label_colors, labels_picture, places, time_picture
from spikgpt.benchmark.measures import given
from spikgpt.benchmark.methods import Method
from spikgpt.benchmark.run import Plan, Run
from spikgpt.benchmark.table import (
    LEGEND,
    Row,
    as_frame,
    as_json,
    as_markdown,
    cells_of,
    conditions,
    methods_of,
    rows_of,
)
from spikgpt.benchmark.task import Task
from spikgpt.cells.output import write_csv
from spikgpt.files import replacing
from spikgpt.reference.pictures import confusion_picture
from spikgpt.training.metrics import measure

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
    """A figure of a task: of one method, or of all where ``method`` is empty."""

    task: str
    method: str
    kind: str
    content: bytes

    @property
    def file(self) -> str:
        """The name of its file."""
        return "-".join(filter(None, (self.task, self.method, self.kind))).replace(" ", "_") + ".png"


def write_report(tasks: Sequence[Task], methods: Sequence[Method], runs: Sequence[Run], plan: Plan) -> list[Row]:
    """Write ``results.json``, ``results.csv``, ``results.md``, ``report.html`` and ``figures/``; return the rows."""
    rows = [row for task in tasks for row in rows_of(task, methods, runs)]
    folder = plan.folder
    pictures: list[Picture] = []
    for task in tasks:
        own = [row for row in rows if row.task == task.name]
        pictures += pictures_of(task, own, runs, folder / "places")
    with replacing(folder / "figures") as temporary:
        temporary.mkdir()
        for picture in pictures:
            (temporary / picture.file).write_bytes(picture.content)
    texts = {
        "results.json": json.dumps(as_json(rows, tasks, plan), indent=1) + "\n",
        "results.md": as_markdown(rows, tasks, plan),
        "report.html": page(rows, tasks, plan, pictures),
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_csv([as_frame(rows)], folder / "results.csv", index=False)
    return rows


def pictures_of(task: Task, rows: Sequence[Row], runs: Sequence[Run], kept: Path) -> Iterator[Picture]:
    """Give the figures of a task: of all methods, then of each one's first seed; ``kept`` is a folder for places."""
    if not any(row.means for row in rows):
        return
    yield Picture(task.name, "", "bars", bars_picture(task.name, rows))
    yield Picture(task.name, "", "time", time_picture(task.name, rows))
    where, colors, known = places(task, kept), label_colors(task), task.known
    for row in rows:
        answers = [run.answer for run in runs if (run.task, run.method) == (task.name, row.method) and run.answer]
        if not answers:
            continue
        title = f"{task.name}: {row.title}"
        yield Picture(
            task.name, row.method, "umap", labels_picture(title, where, task.truth, given(answers[0]), colors)
        )
        confusion = measure(task.truth[known], answers[0].labels[known]).to_dict()["confusion"]
        yield Picture(task.name, row.method, "confusion", confusion_picture(confusion))


def page(rows: Sequence[Row], tasks: Sequence[Task], plan: Plan, pictures: Sequence[Picture]) -> str:
    """Return the report as one HTML page that needs no other file."""
    told = conditions(plan)
    parts = ["<!doctype html>", '<html lang="en">', '<meta charset="utf-8">', "<title>Benchmark</title>"]
    parts += [f"<style>{STYLE}</style>", "<h1>Benchmark</h1>"]
    facts = f"{told['date']}, SpikGPT {told['spikgpt']}, seeds: {told['seeds']}, threads: {told['threads']}."
    parts += [f"<p>{escape(facts)} {escape(told['machine'])}.</p>", f"<p>{_bold(LEGEND)}</p>"]
    for task in tasks:
        own = [row for row in rows if row.task == task.name]
        shown = {(picture.method, picture.kind): picture for picture in pictures if picture.task == task.name}
        parts += [f"<h2>{escape(task.name)}</h2>", _table(cells_of(own, task.paper))]
        parts += [_image(shown["", kind]) for kind in ("bars", "time") if ("", kind) in shown]
        for row in own:
            if (row.method, "umap") in shown:
                images = "".join(_image(shown[row.method, kind]) for kind in ("umap", "confusion"))
                parts.append(f"<details><summary>{escape(row.title)}</summary>{images}{_scores(row)}</details>")
    parts += ["<h2>Methods</h2>", _table(methods_of(rows)), "</html>"]
    return "\n".join(parts) + "\n"


def _table(cells: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; one cell in bold is bold, and a row with nothing but a sentence spans all columns."""
    heading, *lines = cells
    found = ["<table>", f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in heading)}</tr>"]
    for name, first, *rest in lines:
        if any(rest):
            figures = "".join(f"<td>{_bold(cell)}</td>" for cell in (first, *rest))
        else:
            figures = f'<td class="note" colspan="{len(rest) + 1}">{escape(first)}</td>'
        found.append(f"<tr><td>{escape(name)}</td>{figures}</tr>")
    return "".join([*found, "</table>"])


def _scores(row: Row) -> str:
    """Return the F1 of each type as a table."""
    labels = list(row.per_label)
    return _table([["type", *labels], ["F1", *(f"{row.per_label[label]:.3f}" for label in labels)]])


def _bold(text: str) -> str:
    """Return text as HTML, what stands between two pairs of stars in bold."""
    pieces = escape(text).split("**")
    return "".join(f"<b>{piece}</b>" if place % 2 else piece for place, piece in enumerate(pieces))


def _image(picture: Picture) -> str:
    """Return a picture as HTML, its bytes inside."""
    told = escape(f"{picture.kind} of {picture.method or 'all methods'} on {picture.task}")
    return f'<p><img alt="{told}" src="data:image/png;base64,{base64.b64encode(picture.content).decode()}"></p>'

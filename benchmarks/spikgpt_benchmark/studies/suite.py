"""Suites that measure SpikGPT across studies: records of figures, their summary, and the printed tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from spikgpt.cells.output import write_csv
from spikgpt.errors import ConfigError, listed
from spikgpt.files import replacing

# A record is one line of a table: columns that identify the line, and figures.
Record = dict[str, Any]
# First words of figures for which larger values are worse. For all other figures, smaller values are worse.
LARGER_IS_WORSE = ("known Unknown", "labels changed", "Unknown changed", "calibration error", "refused", "seconds")
# Width of a printed table without a terminal, in characters.
WIDTH = 240


@dataclass(frozen=True)
class StudyContext:
    """Options of one run of a suite.

    Attributes
    ----------
    data, cache
        Folder of the studies, and the folder that keeps trained references.
    tasks
        Names of the tasks, pairs or references to measure; empty for all.
    genes
        Sizes of gene panels; None stands for all genes of the query.
    complete
        Measure only with all cell types in the reference.
    shared_genes
        Also train references on only the genes that reference and query share.
    sizes
        Numbers of cells, labels or clusters that speed is measured with; empty for the sizes of the suite.
    """

    data: Path
    cache: Path
    tasks: tuple[str, ...] = ()
    seeds: int = 1
    genes: tuple[int | None, ...] = (None,)
    complete: bool = False
    shared_genes: bool = False
    sizes: tuple[int, ...] = ()

    def selects(self, name: str) -> bool:
        """Return True if a task is to be measured."""
        return not self.tasks or name in self.tasks


@dataclass(frozen=True)
class StudySuite:
    """A suite: title, function that yields records, columns that identify a record, columns that the summary groups by.

    Only records for which ``notable`` returns True are printed. All records are written to the files.
    """

    title: str
    records: Callable[[StudyContext], Iterator[Record]]
    keys: tuple[str, ...]
    groups: tuple[str, ...] = ()
    notable: Callable[[Record], bool] = bool


def run_suite(name: str, suite: StudySuite, context: StudyContext, out: Path) -> None:
    """Measure a suite, print its tables, and write ``NAME.json`` after each record and ``NAME.csv`` at the end."""
    records: list[Record] = []

    def write(summary: list[Record]) -> None:
        with replacing(out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps({"records": records, "summary": summary}, indent=1) + "\n")

    for record in suite.records(context):
        records.append(record)
        write([])
    if not records:
        msg = f"The suite {name} has no task {listed(context.tasks)}; leave --task out to measure all tasks."
        raise ConfigError(msg)
    summary = summarise(records, suite)
    write(summary)
    write_csv([pd.DataFrame(records)], out / f"{name}.csv", index=False)
    print_table([record for record in records if suite.notable(record)], f"{name}: {suite.title}")
    if summary:
        print_table(summary, f"{name}: summary")


def summarise(records: Sequence[Record], suite: StudySuite) -> list[Record]:
    """Return the mean, standard deviation and worst value of each figure in each group of records.

    If a group has several tasks, a further line has the mean over the means of the tasks.
    """
    if not suite.groups:
        return []
    frame = pd.DataFrame(records)
    numeric = frame.map(lambda value: isinstance(value, int | float)) | frame.isna()
    figures = [name for name in frame if name not in suite.keys and numeric[name].all()]
    values = frame[figures].astype(float)
    worst = {name: "max" if str(name).startswith(LARGER_IS_WORSE) else "min" for name in figures}
    lines = []
    for group, rows in values.groupby([frame[name] for name in suite.groups], dropna=False, sort=False):
        statistics = {"mean": rows.mean(), "sd": rows.std(ddof=0), "worst": rows.agg(worst)}
        if "task" in frame and "task" not in suite.groups:
            statistics["mean of tasks"] = rows.groupby(frame["task"]).mean().mean()
        for statistic, line in statistics.items():
            named: Record = dict(zip(suite.groups, group, strict=True))
            lines.append(
                {
                    **named,
                    "records": len(rows),
                    "statistic": statistic,
                    **{str(name): float(value) for name, value in line.dropna().items()},
                }
            )
    return [{name: None if value != value else value for name, value in line.items()} for line in lines]


def print_table(records: Sequence[Record], title: str) -> None:
    """Print records as a table on standard output, with a column for each key."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    table = Table(*columns, title=title)
    for record in records:
        table.add_row(*(_cell(record.get(name)) for name in columns))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _cell(value: Any) -> str:
    """Return the text of a value in a printed table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)

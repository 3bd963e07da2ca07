"""``spikgpt benchmark``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Meta

from spikgpt.cli.flags import command
from spikgpt.cli.output import Bars, goes_on, interruptible, note, say, show
from spikgpt.errors import ConfigError, listed
from spikgpt.options import Count, Options, about, cores

if TYPE_CHECKING:
    from spikgpt.benchmark.methods import Method
    from spikgpt.benchmark.table import Row
    from spikgpt.benchmark.task import Task

# Columns of the table that the terminal has room for.
SHOWN = ("method", "accuracy", "macro-F1", "share right", "AUROC unseen", "train, s")
# What a report is made of.
REPORT = ("figures", "report.html", "results.csv", "results.json", "results.md", ".work")
Positive = Annotated[float, Meta(gt=0)]


class CellsOptions(Options, frozen=True, kw_only=True):
    """Which cells methods learn from and label."""

    reference: Annotated[Path | None, about("Labelled cells to learn from: .h5ad, .zarr, or 10x files.")] = None
    query: Annotated[Path | None, about("Cells to label, whose true types are known.")] = None
    label_key: Annotated[str | None, about("Column of obs with the types, in both files.")] = None
    batch_key: Annotated[str | None, about("Column of obs with the batch or donor, in both files.")] = None
    suite: Annotated[
        list[str] | None,
        about("Named cells instead: pbmc, baron, xin, novelty, or retina, lung, pancreas of the paper; repeatable."),
    ] = None
    data: Annotated[Path | None, about("Folder with the files of the suites; by default SPIKGPT_DATA.")] = None

    def tasks(self) -> list[Task]:
        """Return the tasks that are named."""
        from spikgpt.benchmark.suites import tasks_of
        from spikgpt.benchmark.task import Task

        if self.suite:
            if self.reference or self.query:
                msg = "--suite brings its own cells; leave --reference and --query out."
                raise ConfigError(msg)
            folder = self.data or (Path(named) if (named := os.environ.get("SPIKGPT_DATA")) else None)
            if folder is None:
                msg = "--suite needs --data, the folder with its files, or SPIKGPT_DATA."
                raise ConfigError(msg)
            return [task for name in dict.fromkeys(self.suite) for task in tasks_of(name, folder)]
        if self.reference is None or self.query is None or self.label_key is None:
            msg = "Name the cells: --reference, --query and --label-key, or --suite and --data."
            raise ConfigError(msg)
        return [Task.of_files(self.reference, self.query, self.label_key, self.batch_key)]


class RunOptions(Options, frozen=True, kw_only=True):
    """How the methods are run."""

    methods: Annotated[str, about("Names of methods, with commas between them; all by default.")] = "all"
    seeds: Annotated[Count, about("Runs of each method that is not deterministic.")] = 1
    time_limit: Annotated[Count, about("Seconds after which a method is stopped.")] = 3600
    memory_limit: Annotated[Positive, about("Gigabytes above which a method is stopped.")] = 8.0
    threads: Annotated[Count | None, about("Threads of each method; by default one for each core.")] = None
    option: Annotated[list[str] | None, about("NAME=VALUE that a method needs, such as markers=FILE; repeatable.")] = (
        None
    )

    def chosen(self) -> list[Method]:
        """Return the methods that are named."""
        from spikgpt.benchmark.methods import METHODS

        known = {method.name: method for method in METHODS}
        names = list(known) if self.methods == "all" else [name.strip() for name in self.methods.split(",")]
        for name in names:
            if name not in known:
                msg = f"There is no method {name!r}; the methods are {listed(known)}."
                raise ConfigError(msg)
        return [known[name] for name in dict.fromkeys(names)]

    def given(self) -> dict[str, str]:
        """Return the options of methods by name."""
        found = {}
        for text in self.option or ():
            name, equals, value = text.partition("=")
            if not (name and equals and value):
                msg = f"--option is {text!r}; expected NAME=VALUE, such as markers=FILE."
                raise ConfigError(msg)
            found[name] = value
        return found


@command()
def benchmark(
    cells: CellsOptions,
    options: RunOptions,
    out: Annotated[Path, typer.Option(help="Folder for the report, and for what is finished.")],
) -> None:
    """Compare methods on the same cells. An interrupted benchmark goes on when started again."""
    from spikgpt.benchmark.page import write_report
    from spikgpt.benchmark.process import Limits
    from spikgpt.benchmark.run import Plan, runs_of

    methods = options.chosen()
    limits = Limits(float(options.time_limit), options.memory_limit)
    plan = Plan(out, options.seeds, options.threads or cores(), limits, options.given())
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; name a folder to write to."
        raise ConfigError(msg)
    if others := [name for name in REPORT if (out / name).exists() and not (out / "runs").is_dir()]:
        msg = f"{out} holds {listed(others)} of something else, which would be replaced; name a new folder."
        raise ConfigError(msg)
    tasks = cells.tasks()
    (out / "runs").mkdir(parents=True, exist_ok=True)
    runs, total = [], len(tasks) * sum(1 if method.deterministic else plan.seeds for method in methods)
    with interruptible(lambda: goes_on("What is finished is", out / "runs")), Bars() as bars:
        bars("methods", total, "run", 0)
        on_run = lambda task, title, seed: bars("methods", total, "run", 0, figures=f"{task}: {title}, {seed}")  # noqa: E731
        for run in runs_of(tasks, methods, plan, on_run):
            runs.append(run)
            bars("methods", total, "run")
        rows = write_report(tasks, methods, runs, plan)
    for task in tasks:
        _show([row for row in rows if row.task == task.name], task.paper)
    if kept := sum(run.kept for run in runs):
        say(f"{kept} of {len(runs)} runs were finished before.")
    note(*(f"{row.task}, {row.title}: {row.note}" for row in rows if row.note))
    say(f"Wrote {out / 'report.html'}, results.md, results.csv, results.json and figures")


def _show(rows: list[Row], paper: str) -> None:
    """Print some columns of the table of a task."""
    from spikgpt.benchmark.table import cells_of

    heading, *lines = cells_of(rows, paper)
    shown = [place for place, name in enumerate(heading) if name in SHOWN]
    # Why a method has no figures stands in a note below.
    lines = [line if any(line[2:]) or line[1] == paper else [line[0], "-", *line[2:]] for line in lines]
    plain = ([line[place].replace("**", "") for place in shown] for line in lines)
    show([heading[place] for place in shown], plain, rows[0].task, result=True)

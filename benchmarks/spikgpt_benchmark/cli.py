"""The command ``spikgpt benchmark``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Meta

from spikgpt.cli.flags import command
from spikgpt.cli.output import Bars, inform, interruptible, note, resume_hint, show
from spikgpt.errors import ConfigError, listed
from spikgpt.options import Count, Options, about, cores

if TYPE_CHECKING:
    from spikgpt_benchmark.methods import Method
    from spikgpt_benchmark.table import ResultRow
    from spikgpt_benchmark.task import BenchmarkTask

# Columns of the table in the terminal.
SHOWN = ("method", "accuracy", "macro-F1", "open-set accuracy", "AUROC unseen", "train, s")
# Files and folders of a report in the output folder.
REPORT = ("figures", "report.html", "results.csv", "results.json", "results.md", ".work")
Positive = Annotated[float, Meta(gt=0)]


class CellsOptions(Options, frozen=True, kw_only=True):
    """Reference and query of the comparison."""

    reference: Annotated[Path | None, about("Labelled cells to learn from: .h5ad, .zarr, or 10x files.")] = None
    query: Annotated[Path | None, about("Cells of known types to annotate: .h5ad, .zarr, or 10x files.")] = None
    label_key: Annotated[str | None, about("Column of obs with the cell types, in both files.")] = None
    batch_key: Annotated[str | None, about("Column of obs with the batch or donor, in both files.")] = None
    suite: Annotated[
        list[str] | None,
        about("Fixed set of tasks to use instead of --reference and --query, such as pbmc; repeatable."),
    ] = None
    data: Annotated[Path | None, about("Folder with the files of the suites; default: SPIKGPT_DATA.")] = None

    def folder(self) -> Path | None:
        """Return the folder with the files of the suites; None if neither --data nor SPIKGPT_DATA names one."""
        if self.reference or self.query:
            msg = "--suite brings its own cells; leave --reference and --query out."
            raise ConfigError(msg)
        folder = self.data or os.environ.get("SPIKGPT_DATA")
        return Path(folder) if folder else None

    def tasks(self) -> list[BenchmarkTask]:
        """Return the tasks of the method comparison."""
        from spikgpt_benchmark.suites import load_suite
        from spikgpt_benchmark.task import BenchmarkTask

        if self.suite:
            if (folder := self.folder()) is None:
                msg = "--suite needs --data, the folder with its files, or SPIKGPT_DATA."
                raise ConfigError(msg)
            return [task for name in dict.fromkeys(self.suite) for task in load_suite(name, folder)]
        if self.reference is None or self.query is None or self.label_key is None:
            msg = "Name the cells: --reference, --query and --label-key, or --suite and --data."
            raise ConfigError(msg)
        return [BenchmarkTask.from_files(self.reference, self.query, self.label_key, self.batch_key)]


class RunOptions(Options, frozen=True, kw_only=True):
    """Runs of the methods."""

    methods: Annotated[str, about("Names of methods, with commas between them.")] = "all"
    seeds: Annotated[Count, about("Number of runs of each method that uses random numbers.")] = 1
    time_limit: Annotated[Count, about("Seconds after which a method is stopped.")] = 3600
    memory_limit: Annotated[Positive, about("Gigabytes above which a method is stopped.")] = 8.0
    threads: Annotated[Count | None, about("Threads of each method; default: one per core.")] = None
    option: Annotated[list[str] | None, about("Setting that a method needs, such as markers=FILE; repeatable.")] = None

    def selected_methods(self) -> list[Method]:
        """Return the methods that ``--methods`` names."""
        from spikgpt_benchmark.methods import METHODS

        known = {method.name: method for method in METHODS}
        names = list(known) if self.methods == "all" else [name.strip() for name in self.methods.split(",")]
        for name in names:
            if name not in known:
                msg = f"There is no method {name!r}; the methods are {listed(known)}."
                raise ConfigError(msg)
        return [known[name] for name in dict.fromkeys(names)]

    def method_options(self) -> dict[str, str]:
        """Return the values of ``--option`` by the name of the option."""
        options = {}
        for text in self.option or ():
            name, _, value = text.partition("=")
            if not (name and value):
                msg = f"--option is {text!r}; expected NAME=VALUE, such as markers=FILE."
                raise ConfigError(msg)
            options[name] = value
        return options


class StudyOptions(Options, frozen=True, kw_only=True):
    """Suites that measure SpikGPT across studies."""

    task: Annotated[list[str] | None, about("Task of the suite to measure; repeatable. Default: all tasks.")] = None
    panel: Annotated[
        list[Count] | None, about("Also measure with a random panel of this number of genes; repeatable.")
    ] = None
    complete: Annotated[bool, about("Measure only with all cell types in the references.", "--complete")] = False
    shared_genes: Annotated[
        bool, about("Also train references on exactly the genes of the query.", "--shared-genes")
    ] = False
    size: Annotated[
        list[Count] | None, about("Number of cells, labels or clusters in the suites that measure speed; repeatable.")
    ] = None


@command()
def benchmark(
    cells: CellsOptions,
    options: RunOptions,
    study: StudyOptions,
    out: Annotated[Path, typer.Option(help="Folder for the report and for finished runs.")],
) -> None:
    """Compare methods on the same cells, or measure SpikGPT across studies."""
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; name a folder to write to."
        raise ConfigError(msg)
    if _are_studies(cells.suite or []):
        _run_studies(cells, options.seeds, study, out)
    else:
        _compare_methods(cells, options, out)


def _are_studies(names: list[str]) -> bool:
    """Return True for suites that measure SpikGPT across studies instead of comparing methods."""
    from spikgpt_benchmark.suites import SUITES

    if set(names) <= set(SUITES):
        return False
    from spikgpt_benchmark.studies import SUITES as STUDIES

    if unknown := [name for name in names if name not in STUDIES]:
        also = ", which cannot be combined with suites across studies" if set(unknown) <= set(SUITES) else ""
        msg = f"There is no suite {listed(unknown)}{also}; the suites are {listed(SUITES)}; and {listed(STUDIES)}."
        raise ConfigError(msg)
    return True


def _run_studies(cells: CellsOptions, seeds: int, study: StudyOptions, out: Path) -> None:
    """Measure SpikGPT across studies, and keep the trained references in ``out``."""
    from spikgpt_benchmark.studies import SUITES
    from spikgpt_benchmark.studies.suite import StudyContext, run_suite

    cache = out / "references"
    cache.mkdir(parents=True, exist_ok=True)
    genes = (None, *(study.panel or ()))
    context = StudyContext(
        cells.folder() or Path(),
        cache,
        tuple(study.task or ()),
        seeds,
        genes,
        study.complete,
        study.shared_genes,
        tuple(study.size or ()),
    )
    with interruptible(lambda: resume_hint("Trained references are", cache)):
        for name in dict.fromkeys(cells.suite or ()):
            run_suite(name, SUITES[name], context, out)
            inform(f"Wrote {out / name}.json and {name}.csv")


def _compare_methods(cells: CellsOptions, options: RunOptions, out: Path) -> None:
    """Run methods on the same cells, and write the report."""
    from spikgpt_benchmark.page import write_report
    from spikgpt_benchmark.process import ResourceLimits
    from spikgpt_benchmark.run import BenchmarkPlan, run_methods

    methods = options.selected_methods()
    limits = ResourceLimits(float(options.time_limit), options.memory_limit)
    plan = BenchmarkPlan(out, options.seeds, options.threads or cores(), limits, options.method_options())
    if existing := [name for name in REPORT if (out / name).exists() and not (out / "runs").is_dir()]:
        msg = f"{out} holds {listed(existing)} of something else, which would be replaced; name a new folder."
        raise ConfigError(msg)
    tasks = cells.tasks()
    (out / "runs").mkdir(parents=True, exist_ok=True)
    runs, total = [], len(tasks) * sum(1 if method.deterministic else plan.seeds for method in methods)
    with interruptible(lambda: resume_hint("Finished runs are", out / "runs")), Bars() as bars:
        bars("methods", total, "run", 0)
        on_run = lambda task, title, seed: bars("methods", total, "run", 0, figures=f"{task}: {title}, {seed}")  # noqa: E731
        for run in run_methods(tasks, methods, plan, on_run):
            runs.append(run)
            bars("methods", total, "run")
        rows = write_report(tasks, methods, runs, plan)
    for task in tasks:
        _show([row for row in rows if row.task == task.name], task.paper)
    if kept := sum(run.kept for run in runs):
        inform(f"{kept} of {len(runs)} runs were finished before.")
    note(*(f"{row.task}, {row.title}: {row.note}" for row in rows if row.note))
    inform(f"Wrote {out / 'report.html'}, results.md, results.csv, results.json and figures")


def _show(rows: list[ResultRow], paper: str) -> None:
    """Print the rows of a task, with the columns of ``SHOWN`` only."""
    from spikgpt_benchmark.table import table_cells

    heading, *lines = table_cells(rows, paper)
    shown = [column for column, name in enumerate(heading) if name in SHOWN]
    # A row without figures gets "-"; a note below the table states the reason.
    lines = [line if any(line[2:]) or line[1] == paper else [line[0], "-", *line[2:]] for line in lines]
    plain = ([line[column].replace("**", "") for column in shown] for line in lines)
    show([heading[column] for column in shown], plain, rows[0].task, result=True)

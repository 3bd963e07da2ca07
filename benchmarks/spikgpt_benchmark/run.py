"""Run methods on tasks, each run in a separate process, and keep finished runs for later calls."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from spikgpt.errors import printable
from spikgpt.files import replacing
from spikgpt_benchmark.environments import MethodUnavailable, installed, interpreter_of, python_path
from spikgpt_benchmark.methods import Method
from spikgpt_benchmark.methods.result import ARRAYS, FIGURES, MethodResult, MethodSettings
from spikgpt_benchmark.process import ProcessOutcome, ResourceLimits, run_limited
from spikgpt_benchmark.task import LABEL, BenchmarkTask

DONE = "done"
LOG = "log.txt"
# Prefixes of the variables that set the threads of numeric libraries.
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB", "NUMEXPR")


@dataclass(frozen=True)
class BenchmarkPlan:
    """Output folder, number of seeds, threads, limits and method options of a benchmark."""

    folder: Path
    seeds: int = 1
    threads: int = 1
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkRun:
    """A run of a method on a task with one seed; ``note`` is ``done``, or the reason for a missing result."""

    task: str
    method: str
    seed: int
    note: str
    seconds: float = 0.0
    peak_bytes: int = 0
    result: MethodResult | None = None
    kept: bool = False


# Function that is called before each run with the names of task and method, and the seed.
OnRun = Callable[[str, str, int], None]


def run_methods(
    tasks: Sequence[BenchmarkTask], methods: Sequence[Method], plan: BenchmarkPlan, on_run: OnRun
) -> Iterator[BenchmarkRun]:
    """Run methods on tasks, or load the finished runs with the same cells, settings and versions.

    A method that cannot run, or reaches a limit, is not tried with further seeds.
    """
    work = plan.folder.resolve() / ".work"
    shutil.rmtree(work, ignore_errors=True)  # remains of a killed call
    work.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as folder:
            for method in methods:
                for seed in range(1 if method.deterministic else plan.seeds):
                    on_run(task.name, method.title, seed)
                    run = _run_once(task, method, seed, plan, Path(folder))
                    yield run
                    if run.note != DONE:
                        break
    shutil.rmtree(work, ignore_errors=True)


def run_stem(folder: Path, task: str, method: str, seed: int) -> Path:
    """Return the path of a finished run, without the extensions of its files."""
    return folder / "runs" / task.replace(" ", "_") / f"{method}-{seed}"


def _run_once(task: BenchmarkTask, method: Method, seed: int, plan: BenchmarkPlan, cells: Path) -> BenchmarkRun:
    """Run a method once, or load its finished run; ``cells`` is the folder for the cells of the task."""
    options = {name: value or plan.options.get(name, "") for name, value in method.options.items()}
    if missing := [name for name, value in options.items() if not value]:
        return BenchmarkRun(task.name, method.name, seed, f"not run: it needs --option {missing[0]}=...")
    settings = MethodSettings(seed, LABEL, task.batch_key, plan.threads, options, task.query_values, task.log_base)
    try:
        python = interpreter_of(method)
    except MethodUnavailable as error:
        return BenchmarkRun(task.name, method.name, seed, str(error))
    key, stem = _run_key(task, method, settings), run_stem(plan.folder, task.name, method.name, seed)
    if finished := _load_finished(stem, key, plan.limits):
        return finished
    if not (cells / "query.h5ad").exists():
        task.reference.write_h5ad(cells / "reference.h5ad")
        task.query.write_h5ad(cells / "query.h5ad")
    with tempfile.TemporaryDirectory(dir=cells, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("reference.h5ad", "query.h5ad"):
            (folder / part).symlink_to(cells / part)
        settings.write(folder)
        # With -P, no file of the working directory is imported.
        command = [str(python), "-P", "-m", "spikgpt_benchmark.worker", method.module, str(folder), str(os.getpid())]
        outcome = run_limited(command, plan.limits, folder / LOG, _environment(method, folder, plan.threads))
        about = {"task": task.name, "method": method.name, "seed": seed, "note": _note(outcome, folder), "key": key}
        about |= {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes, "limits": asdict(plan.limits)}
        _keep(folder, stem, about)
    return _load(stem, about)


def _keep(folder: Path, stem: Path, about: dict[str, Any]) -> None:
    """Copy the files of a run to its final path; the JSON file comes last, as it marks the run as complete."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    arrays, log, json_file = (stem.with_name(f"{stem.name}.{ending}") for ending in ("npz", "log", "json"))
    for path in (json_file, arrays, log):
        path.unlink(missing_ok=True)
    if about["note"] == DONE:
        shutil.copyfile(folder / ARRAYS, arrays)
        about["figures"] = json.loads((folder / FIGURES).read_text())
    else:
        shutil.copyfile(folder / LOG, log)
    with replacing(json_file) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")


def _load_finished(stem: Path, key: str, limits: ResourceLimits) -> BenchmarkRun | None:
    """Return the kept run with this key if it is done, or reached the same limits; else None."""
    try:
        about = json.loads(stem.with_name(f"{stem.name}.json").read_text())
        if about["key"] != key:
            return None
        stopped = about["note"].startswith("stopped") and about["limits"] == asdict(limits)
        return _load(stem, about, kept=True) if about["note"] == DONE or stopped else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _load(stem: Path, about: Mapping[str, Any], *, kept: bool = False) -> BenchmarkRun:
    """Return a run from its kept files."""
    fields = {name: about[name] for name in ("task", "method", "seed", "note", "seconds", "peak_bytes")}
    result = None
    if about["note"] == DONE:
        result = MethodResult.from_files(stem.with_name(f"{stem.name}.npz"), about["figures"])
    return BenchmarkRun(**fields, result=result, kept=kept)


def _run_key(task: BenchmarkTask, method: Method, settings: MethodSettings) -> str:
    """Return a hash of cells, settings, code and versions of a run."""
    versions = {package: installed(package) for package in method.packages} if method.environment is None else {}
    parts = [task.digest, asdict(settings), method_sources(method.module), versions, method.environment]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def method_sources(module: str) -> dict[str, str]:
    """Return the source of a method's module and of the method modules that it imports, by module name."""
    sources, names = dict[str, str](), [module]
    for name in names:  # the list grows by the imports of each module
        spec = importlib.util.find_spec(name)
        if name not in sources and spec and spec.origin:
            sources[name] = Path(spec.origin).read_text(encoding="utf-8")
            names += re.findall(r"^\s*from (spikgpt_benchmark\.methods\.\S+) import", sources[name], re.MULTILINE)
    return sources


def _environment(method: Method, folder: Path, threads: int) -> dict[str, str]:
    """Return the environment variables of a method's process."""
    variables = dict(os.environ) | {f"{name}_NUM_THREADS": str(threads) for name in THREADS}
    variables |= {"MPLBACKEND": "Agg", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
    if path := python_path(method, folder):
        variables["PYTHONPATH"] = path
    return variables


def _note(outcome: ProcessOutcome, folder: Path) -> str:
    """Return one line on how a process ended: done, stopped or failed."""
    if outcome.stopped:
        return outcome.stopped
    if outcome.code == 0 and (folder / FIGURES).exists():
        return DONE
    if outcome.code < 0:
        return f"failed: ended by {signal.Signals(-outcome.code).name}; the machine may have had too little memory"
    lines = [line.strip() for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
    return f"failed: {printable(lines[-1])[:300] if lines else f'exit code {outcome.code} without output'}"

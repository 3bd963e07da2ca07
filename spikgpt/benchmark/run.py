"""Methods on tasks, each run in a process of its own; what is finished is kept and found again."""

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

from spikgpt.benchmark.environments import Unavailable, installed, python_of, python_path
from spikgpt.benchmark.methods import Method
from spikgpt.benchmark.methods.answer import ARRAYS, FIGURES, Answer, Settings
from spikgpt.benchmark.process import Limits, Outcome, run_limited
from spikgpt.benchmark.task import LABEL, Task
from spikgpt.errors import printable
from spikgpt.files import replacing

DONE = "done"
LOG = "log.txt"
# Read by the libraries that compute in threads.
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB", "NUMEXPR")


@dataclass(frozen=True)
class Plan:
    """How methods are run: with how many seeds, within which limits, and with which options of their own."""

    folder: Path
    seeds: int = 1
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A method on a task with one seed: ``note`` is ``done``, or says why there is no answer."""

    task: str
    method: str
    seed: int
    note: str
    seconds: float = 0.0
    peak_bytes: int = 0
    answer: Answer | None = None
    kept: bool = False


# Called before each run, with the task, the method and the seed.
OnRun = Callable[[str, str, int], None]


def runs_of(tasks: Sequence[Task], methods: Sequence[Method], plan: Plan, on_run: OnRun) -> Iterator[Run]:
    """Run methods on tasks, or find what an earlier call finished with the same cells, settings and versions.

    A method that cannot run, or reaches a limit, is not tried with further seeds.
    """
    work = plan.folder.resolve() / ".work"
    shutil.rmtree(work, ignore_errors=True)  # what a killed call left
    work.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as folder:
            cells = Path(folder)
            for method in methods:
                for seed in range(1 if method.deterministic else plan.seeds):
                    on_run(task.name, method.title, seed)
                    run = _run(task, method, seed, plan, cells)
                    yield run
                    if run.note != DONE:
                        break
    shutil.rmtree(work, ignore_errors=True)


def place_of(folder: Path, task: str, method: str, seed: int) -> Path:
    """Return where a run is kept, without the ending of the files."""
    return folder / "runs" / task.replace(" ", "_") / f"{method}-{seed}"


def _run(task: Task, method: Method, seed: int, plan: Plan, cells: Path) -> Run:
    """Run a method once, or find it kept. ``cells`` is a folder for the files of the task."""
    given = {name: value or plan.options.get(name, "") for name, value in method.options.items()}
    if missing := [name for name, value in given.items() if not value]:
        return Run(task.name, method.name, seed, f"not run: it needs --option {missing[0]}=...")
    settings = Settings(seed, LABEL, task.batch_key, plan.threads, given, task.query_values, task.log_base)
    try:
        python = python_of(method)
    except Unavailable as error:
        return Run(task.name, method.name, seed, str(error))
    key, place = _key(task, method, settings), place_of(plan.folder, task.name, method.name, seed)
    if found := _found(place, key, plan.limits):
        return found
    if not (cells / "query.h5ad").exists():
        task.reference.write_h5ad(cells / "reference.h5ad")
        task.query.write_h5ad(cells / "query.h5ad")
    with tempfile.TemporaryDirectory(dir=cells, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("reference.h5ad", "query.h5ad"):
            (folder / part).symlink_to(cells / part)
        settings.write(folder)
        # -P: nothing that lies in the working directory is imported.
        command = [str(python), "-P", "-m", "spikgpt.benchmark.worker", method.module, str(folder), str(os.getpid())]
        environment = _environment(method, folder, plan.threads)
        outcome = run_limited(command, plan.limits, folder / LOG, environment)
        note = _note(outcome, folder)
        told = {"task": task.name, "method": method.name, "seed": seed, "note": note, "key": key}
        told |= {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes, "limits": asdict(plan.limits)}
        _keep(folder, place, told)
    return _read(place, told)


def _keep(folder: Path, place: Path, told: dict[str, Any]) -> None:
    """Keep the files of a run and what is told of it; that comes last, so that it is true of them."""
    place.parent.mkdir(parents=True, exist_ok=True)
    arrays, log, json_file = (place.with_name(f"{place.name}.{ending}") for ending in ("npz", "log", "json"))
    for path in (json_file, arrays, log):
        path.unlink(missing_ok=True)
    if told["note"] == DONE:
        shutil.copyfile(folder / ARRAYS, arrays)
        told["figures"] = json.loads((folder / FIGURES).read_text())
    else:
        shutil.copyfile(folder / LOG, log)
    with replacing(json_file) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n")


def _found(place: Path, key: str, limits: Limits) -> Run | None:
    """Return a kept run of the same key: one that is done, or reached the same limits."""
    try:
        told = json.loads(place.with_name(f"{place.name}.json").read_text())
        if told["key"] != key:
            return None
        reached = told["note"].startswith("stopped") and told["limits"] == asdict(limits)
        return _read(place, told, kept=True) if told["note"] == DONE or reached else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _read(place: Path, told: Mapping[str, Any], *, kept: bool = False) -> Run:
    """Return a kept run."""
    named = {name: told[name] for name in ("task", "method", "seed", "note", "seconds", "peak_bytes")}
    answer = None
    if told["note"] == DONE:
        answer = Answer.of(place.with_name(f"{place.name}.npz"), told["figures"])
    return Run(**named, answer=answer, kept=kept)


def _key(task: Task, method: Method, settings: Settings) -> str:
    """Return a name for what a run depends on."""
    versions = {package: installed(package) for package in method.packages} if method.environment is None else {}
    told = [task.digest, asdict(settings), sources_of(method.module), versions, method.environment]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def sources_of(module: str) -> dict[str, str]:
    """Return the text of a method's module and of all that it takes from other methods' modules, by name."""
    found, names = dict[str, str](), [module]
    for name in names:  # grows by what each takes
        spec = importlib.util.find_spec(name)
        if name not in found and spec and spec.origin:
            found[name] = Path(spec.origin).read_text(encoding="utf-8")
            names += re.findall(r"^\s*from (spikgpt\.benchmark\.methods\.\S+) import", found[name], re.MULTILINE)
    return found


def _environment(method: Method, folder: Path, threads: int) -> dict[str, str]:
    """Return the environment variables of a method's process."""
    found = dict(os.environ) | {f"{name}_NUM_THREADS": str(threads) for name in THREADS}
    found |= {"MPLBACKEND": "Agg", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
    if path := python_path(method, folder):
        found["PYTHONPATH"] = path
    return found


def _note(outcome: Outcome, folder: Path) -> str:
    """Say in a line how a process went."""
    if outcome.stopped:
        return outcome.stopped
    if outcome.code == 0 and (folder / FIGURES).exists():
        return DONE
    if outcome.code < 0:
        return f"failed: ended by {signal.Signals(-outcome.code).name}; the machine may have had too little memory"
    lines = [line.strip() for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
    last = printable(lines[-1])[:300] if lines else f"exit code {outcome.code}, and not a word"
    return f"failed: {last}"

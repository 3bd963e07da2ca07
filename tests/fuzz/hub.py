"""Pull, list or push with altered answers of a Hub: ``python -m tests.fuzz.hub --count 600 --seed 0``.

Each case uses a Hub on this machine that alters some or all answers, a new folder and an empty cache. The case must end
with the right bytes, or be refused with a message of one line, within PATIENCE seconds. Failures are a crash, another
exception, a hang, other bytes, files left over, too much memory, and a file outside of the folders given.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from spikgpt.errors import SpikGPTError
from spikgpt.reference import hub as hub_module
from spikgpt.reference import hub_errors
from spikgpt.reference import hub_requests as requests
from spikgpt.reference.hub import Hub
from spikgpt.sharing import pull, push
from spikgpt_benchmark.process import peak_megabytes
from tests.fuzz.alter_answers import KINDS, REPO, SOURCE, choice, files_of, reference_files
from tests.fuzz.cells import FuzzWorker, WorkerResult
from tests.fuzz.outcome_table import OutcomeCounts, count_outcomes, run
from tests.hub_server import LoopbackHub
from tests.hub_server.answers import HubAnswer

# Seconds that a case may take, and largest memory of the process in MiB.
PATIENCE, MEMORY = 60.0, 2048
GOOD = ("refused", "right")
# Names of files and folders in the cache of huggingface_hub.
CACHED = ("models--islets--small", ".locks", "CACHEDIR.TAG")
# Regular expressions of the requests with altered answers; each case uses one expression.
REQUESTS = (
    "GET /api/models/islets/small",
    "GET .*/resolve/.*json",
    "GET .*/resolve/.*safetensors",
    "GET /cdn",
    "GET ",
    ".",
)
ACTIONS = ("pull", "pull", "pull", "pull", "pull", "pull cached", "list", "push")


def random_case(case: str) -> tuple[np.random.Generator, str, str, str, int]:
    """Return the random generator, action, alteration, request pattern and number of altered answers of a case."""
    random = np.random.default_rng([int(number) for number in case.split("-")])
    return (
        random,
        choice(random, ACTIONS),
        choice(random, list(KINDS)),
        choice(random, REQUESTS),
        int(choice(random, (1, 2, 99))),
    )


def work(folder: str, pipe: Connection) -> None:
    """Run the cases whose folders come through a pipe; runs in a separate process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    # These limits are shorter than the real limits, with which a thousand cases would take a day.
    requests.SPEED, hub_module.TIMEOUT, hub_module.PUSH_PATIENCE = 10**6, 0.5, 3.0
    hub_errors.TRIES = 2
    hub_errors.wait_of = lambda error: 0.01
    from huggingface_hub import constants, file_download

    constants.HF_HUB_DOWNLOAD_TIMEOUT = 1
    file_download.time = SimpleNamespace(sleep=lambda seconds: None)  # type: ignore[assignment]
    pipe.send("ready")
    while True:
        path = pipe.recv()
        try:
            result = run_case(path)
        except Exception:  # noqa: BLE001, any other exception is a failure
            result = WorkerResult("traceback", traceback.format_exc()[-1500:])
        if (memory := peak_megabytes()) > MEMORY:
            result = WorkerResult("memory", f"the process took {memory:.0f} MiB: {result}")
        pipe.send(tuple(result))


def run_case(path: Path) -> WorkerResult:
    """Run the action of a case against a Hub that alters answers, and return the outcome."""
    random, action, kind, pattern, count = random_case(path.name)
    out, remaining = path / "out", [count]

    def alter(request: str, answer: HubAnswer) -> HubAnswer:
        if not remaining[0] or not re.match(pattern, request):
            return answer
        remaining[0] -= 1
        return KINDS[kind](answer, random)

    requests.PATIENCE = 60.0
    with LoopbackHub() as server:
        client = Hub(server.endpoint, cache_dir=path / "cache")
        if action != "push" or random.random() < 0.5:
            server.put(REPO, reference_files())
        if action == "pull cached":
            pull(REPO, path / "before", hub=client)
            server.put(REPO, {**reference_files(), "notes.txt": b"newer"})
        server.forge, requests.PATIENCE = alter, 1.5
        try:
            if action == "push":
                push(SOURCE, REPO, hub=client)
            elif action == "list":
                client.references("islets")
            else:
                pull(REPO, out, hub=client)
        except SpikGPTError as error:
            message = str(error)
            if out.exists():
                return WorkerResult("left over", f"{message}, yet {out} exists")
            return WorkerResult("refused" if message.isprintable() and message else "several lines", message)
        if action == "push":
            commit = server.repositories[REPO].at("main") if REPO in server.repositories else None
            pushed = dict(commit.files) if commit else {}
            differing = [name for name in reference_files() if name not in pushed]
        else:
            pulled = files_of(out)
            differing = [
                name for name in {**pulled, **reference_files()} if pulled.get(name) != reference_files().get(name)
            ]
        if differing and action != "list":
            return WorkerResult("wrong bytes", f"{action}: {differing}")
    return WorkerResult("right")


def outside(path: Path, *, slow: bool) -> list[str]:
    """Return forbidden remains of a case: files outside of its folders, links out of the cache, and temporary files.

    With ``slow``, temporary files are allowed: a download that was stopped as too slow keeps its temporary file until
    the thread ends.
    """
    home = (path / "cache").resolve()
    unexpected = [str(part) for part in path.iterdir() if part.name not in ("out", "cache", "before")]
    unexpected += [str(part) for part in home.rglob("*") if not part.resolve().is_relative_to(home)]
    unexpected += [] if slow else [str(part) for part in home.rglob("*.incomplete")]
    unexpected += [str(part) for part in home.iterdir() if part.name not in CACHED] if home.is_dir() else []
    return unexpected


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[OutcomeCounts, list[str]]:
    """Return the number of each outcome by kind of alteration, and the failures."""
    with tempfile.TemporaryDirectory() as folder:
        # The cases run eight levels deep, so that paths such as ../../x stay in the temporary folder.
        home = Path(folder, *"abcdefgh")
        home.mkdir(parents=True)
        worker = FuzzWorker(folder, work, PATIENCE)

        def attempt(number: int) -> tuple[str, str, str]:
            path = home / f"{seed}-{number}"
            path.mkdir()
            result = worker.process(path)
            unexpected = outside(path, slow="The Hub is too slow" in result.message)
            shutil.rmtree(path)
            unexpected += [str(part) for part in Path(folder).rglob("*") if not home.is_relative_to(part)]
            if unexpected:
                result = WorkerResult("file outside", f"{unexpected}: {result}")
            _, action, kind, pattern, altered = random_case(path.name)
            outcome = result.outcome if result.outcome in GOOD else f"{result.outcome}: {result.message}"
            return kind, outcome, f"{action}, {kind} of {pattern} x {altered}"

        outcomes, failures = count_outcomes(count, GOOD, attempt, progress=progress)
        worker.close()
    return outcomes, failures


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 600))

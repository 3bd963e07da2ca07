"""Forged answers of a Hub: ``python -m tests.fuzz.hub --count 600 --seed 0``.

Each case pulls, lists or pushes through a Hub on this machine that spoils its answers, or some of them, into a fresh
folder and a fresh cache. It ends with the right bytes or is refused in one line, within ten seconds. Anything else is a
failure: a crash, another exception, a hang, other bytes, something left over, too much memory, and a file outside of
the folders given.
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
from tests.fuzz.answers import KINDS, REPO, SOURCE, files_of, one, sound
from tests.fuzz.cells import Answer, Worker
from tests.fuzz.outcomes import Counted, run, tally
from tests.hub_server import LoopbackHub
from tests.hub_server.answers import Answer as Sent

# Seconds that a case may take, and MiB that the process may have.
PATIENCE, MEMORY = 60.0, 2048
GOOD = ("refused", "right")
# Names in the cache of huggingface_hub.
CACHED = ("models--islets--small", ".locks", "CACHEDIR.TAG")
# Which requests are spoiled, and of which a case draws one.
WHERE = (
    "GET /api/models/islets/small",
    "GET .*/resolve/.*json",
    "GET .*/resolve/.*safetensors",
    "GET /cdn",
    "GET ",
    ".",
)
DOING = ("pull", "pull", "pull", "pull", "pull", "pull cached", "list", "push")


def drawn(case: str) -> tuple[np.random.Generator, str, str, str, int]:
    """Return what a case, such as ``0-17``, draws: the rest, what it does, the damage, where, and how often."""
    random = np.random.default_rng([int(number) for number in case.split("-")])
    return random, one(random, DOING), one(random, list(KINDS)), one(random, WHERE), int(one(random, (1, 2, 99)))


def work(folder: str, pipe: Connection) -> None:
    """Try the cases whose folders come through a pipe, in a process of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    # As long as in earnest, a thousand cases would take a day.
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
            answer = tried(path)
        except Exception:  # noqa: BLE001, that is what is looked for
            answer = Answer("traceback", traceback.format_exc()[-1500:])
        if (used := peak_megabytes()) > MEMORY:
            answer = Answer("memory", f"the process took {used:.0f} MiB: {answer}")
        pipe.send(tuple(answer))


def tried(path: Path) -> Answer:
    """Do what a case draws, and return what became of it."""
    random, doing, kind, where, times = drawn(path.name)
    out, left = path / "out", [times]

    def forge(request: str, answer: Sent) -> Sent:
        if not left[0] or not re.match(where, request):
            return answer
        left[0] -= 1
        return KINDS[kind](answer, random)

    requests.PATIENCE = 60.0
    with LoopbackHub() as server:
        client = Hub(server.endpoint, cache_dir=path / "cache")
        if doing != "push" or random.random() < 0.5:
            server.put(REPO, sound())
        if doing == "pull cached":
            pull(REPO, path / "before", hub=client)
            server.put(REPO, {**sound(), "notes.txt": b"newer"})
        server.forge, requests.PATIENCE = forge, 1.5
        try:
            if doing == "push":
                push(SOURCE, REPO, hub=client)
            elif doing == "list":
                client.references("islets")
            else:
                pull(REPO, out, hub=client)
        except SpikGPTError as error:
            said = str(error)
            if out.exists():
                return Answer("left over", f"{said}, yet {out} is there")
            return Answer("refused" if said.isprintable() and said else "several lines", said)
        if doing == "push":
            commit = server.repositories[REPO].at("main") if REPO in server.repositories else None
            there = dict(commit.files) if commit else {}
            wrong = [name for name in sound() if name not in there]
        else:
            found = files_of(out)
            wrong = [name for name in {**found, **sound()} if found.get(name) != sound().get(name)]
        if wrong and doing != "list":
            return Answer("wrong bytes", f"{doing}: {wrong}")
    return Answer("right")


def outside(path: Path, *, slow: bool) -> list[str]:
    """Return the files that a case must not write: beside its folders, or links that lead out of the cache.

    A download that is abandoned as too slow leaves its temporary file until its thread ends.
    """
    home = (path / "cache").resolve()
    wrong = [str(part) for part in path.iterdir() if part.name not in ("out", "cache", "before")]
    wrong += [str(part) for part in home.rglob("*") if not part.resolve().is_relative_to(home)]
    wrong += [] if slow else [str(part) for part in home.rglob("*.incomplete")]
    wrong += [str(part) for part in home.iterdir() if part.name not in CACHED] if home.is_dir() else []
    return wrong


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[Counted, list[str]]:
    """Return how often each damage came to each outcome, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        # Deep enough that paths out of a cache end here.
        home = Path(folder, *"abcdefgh")
        home.mkdir(parents=True)
        worker = Worker(folder, work, PATIENCE)

        def attempt(number: int) -> tuple[str, str, str]:
            path = home / f"{seed}-{number}"
            path.mkdir()
            found = worker.answer(path)
            strays = outside(path, slow="The Hub is too slow" in found.said)
            shutil.rmtree(path)
            strays += [str(part) for part in Path(folder).rglob("*") if not home.is_relative_to(part)]
            if strays:
                found = Answer("file outside", f"{strays}: {found}")
            _, doing, kind, where, times = drawn(path.name)
            told = found.outcome if found.outcome in GOOD else f"{found.outcome}: {found.said}"
            return kind, told, f"{doing}, {kind} of {where} x {times}"

        outcomes, failures = tally(count, GOOD, attempt, progress=progress)
        worker.close()
    return outcomes, failures


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 600))

"""The shipped reference, built and pushed by a command that is killed at eight points: ``python -m tests.fuzz.builds``.

The real cells come over HTTP on this machine as GEO has them, and the reference goes to a small Hub. After each SIGKILL
the same command is given again; the end has to be, to the last byte, what the command makes when it is left alone. Then
the reference is pulled, and gives the same labels through ONNX Runtime as what was built does through torch.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from mirror import pancreas, read_data
from spikgpt_recipes.steps import STEPS
from tests.fuzz.kills import CELLS, spikgpt
from tests.hub_server import Fault, LoopbackHub
from tests.spikgpt_recipes.file_server import FileServer

REPOSITORY = "me/islets"
# Seconds that the Hub takes to answer an upload and a commit, so that there is time to kill who waits for it.
SLOW = 3.0


class Place:
    """A folder to build in, from empty, and what the command says."""

    def __init__(self, folder: Path, mirror: str, hub: LoopbackHub) -> None:
        self.folder, self.hub = folder, hub
        self.out, self.work, self.cache = folder / "islets", folder / ".islets.build", folder / "cache"
        self.log = folder / "said.txt"
        folder.mkdir()
        words = ("build", "pancreas", "--variant", "shipped", "--mirror", mirror, "--cache", self.cache)
        self.command = spikgpt(*words, "--out", self.out, "--push", REPOSITORY)
        self.environment = os.environ | {
            **{"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "x", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf")},
            "SPIKGPT_CACHE": str(folder / "kept"),
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.command, env=self.environment, cwd=self.folder, stderr=log, start_new_session=True
            )

    def finish(self) -> float:
        """Give the command, wait for its end, and return the seconds that it took."""
        started = time.perf_counter()
        if self.start().wait():
            sys.exit(f"The command failed: {self.said()}")
        return time.perf_counter() - started

    def kill(self, ready: Callable[[], bool]) -> float:
        """Give the command, kill it at a point, and return the seconds that it had."""
        started, process = time.perf_counter(), self.start()
        while not ready():
            if process.poll() is not None:
                sys.exit(f"The command was done before it could be killed: {self.said()}")
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return time.perf_counter() - started

    def run(self, *words: object) -> None:
        """Run another command to its end."""
        subprocess.run(spikgpt(*words), env=self.environment, cwd=self.folder, check=True, capture_output=True)

    def said(self) -> str:
        """Return what the command said last."""
        return self.log.read_text()

    def files(self) -> dict[str, bytes]:
        """Return all that is left of a build by name, but for the state, which tells when files were written."""
        return {
            f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
            for folder in (self.out, self.work)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "steps.json"
        }

    def pushed(self) -> dict[str, bytes]:
        """Return the files on the Hub."""
        commit = self.hub.repositories[REPOSITORY].at("main")
        return dict(commit.files) if commit else {}


def points(place: Place) -> dict[str, Callable[[], bool]]:
    """Return when to kill the command."""
    folder = place.cache / "GSE84133"
    prepared, checkpoints = place.work / "prepared", place.work / "checkpoints"

    def asked(request: str) -> bool:
        return any(re.search(request, f"{one.method} {one.path}") for one in place.hub.requests)

    return {
        "some of the archive is there": lambda: any(
            part.stat().st_size > 1_000_000 for part in folder.glob("*/.GSE84133_RAW.tar.part")
        ),
        "the cells of a donor are put aside": lambda: any(prepared.glob(".parts.*/0.npz")),
        "some epochs are trained, to set thresholds": lambda: any(checkpoints.glob("* all/held-out.safetensors")),
        "some epochs are trained on all cells": lambda: len(list(checkpoints.glob("* all/*.safetensors"))) == 2,
        "some epochs are trained without alpha cells": lambda: any(checkpoints.glob("* without */*.safetensors")),
        "graphs are made": lambda: any(place.work.glob(".built.*/built")),
        "a file is on its way to the Hub": lambda: asked("PUT /lfs/"),
        "the commit is on its way to the Hub": lambda: asked("POST .*/commit/"),
    }


def killed(place: Place, server: FileServer) -> None:
    """Build in one command, killed at each point, and say so."""
    server.faults, server.asked = ["slow"], []
    place.hub.requests.clear()
    place.hub.fail(Fault("slow", "PUT /lfs/", seconds=SLOW), Fault("slow", "POST .*/commit/", seconds=SLOW))
    for point, ready in points(place).items():
        seconds = place.kill(ready)
        time.sleep(SLOW if "Hub" in point else 0)  # what has arrived there is dealt with
        there = len(place.pushed()) if REPOSITORY in place.hub.repositories else 0
        state = "a whole reference" if (place.out / "manifest.json").exists() else "no reference"
        say(
            f"killed after {seconds:.1f} s, when {point}: {skipped(place)} unchanged, {state}, {there} files on the Hub"
        )
    place.hub.clear_faults()
    say(f"left alone at last: done after {place.finish():.1f} s, {skipped(place)} unchanged, {sent(place)} was sent")
    say(f"the archive was asked for from {', '.join(wanted or 'its start' for _, wanted in server.asked)}")


def skipped(place: Place) -> str:
    """Return the steps that the command did not do again."""
    return ", ".join(step for step in STEPS if f"{step} (unchanged)" in place.said()) or "nothing"


def sent(place: Place) -> str:
    """Tell whether the command sent anything to the Hub."""
    return "nothing" if "Nothing changed, as every file is there already" in place.said() else "something"


def differ(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Return the names of files that differ, or that only one has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def say(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def labels(place: Place, model: object, engine: str) -> pd.DataFrame:
    """Annotate real cells of other donors, and return their labels."""
    table = place.folder / f"{engine}.csv"
    place.run("annotate", CELLS, "--model", model, "--engine", engine, "--table", table)
    return pd.read_csv(table)


def main() -> int:
    """Build left alone and killed, compare, pull and annotate; exit code 1 when something differs."""
    with tempfile.TemporaryDirectory() as folder, FileServer() as server, LoopbackHub() as hub:
        pancreas(read_data(CELLS.parent, "pancreas_baron_human*.h5ad"), Path(folder, "mirror"))
        archive = Path(folder, "mirror", "GSE84133", "GSE84133_RAW.tar")
        server.files["/mirror/GSE84133/GSE84133_RAW.tar"] = archive.read_bytes()
        whole = Place(Path(folder, "whole"), f"{server.url}/mirror", hub)
        say(f"left alone: {whole.finish():.1f} s")
        expected, expected_there = whole.files(), whole.pushed()
        del hub.repositories[REPOSITORY]
        hub.uploads.clear()
        place = Place(Path(folder, "killed"), f"{server.url}/mirror", hub)
        killed(place, server)
        wrong = differ(expected, place.files()) + differ(expected_there, place.pushed())
        say(f"{len(expected)} files here and {len(expected_there)} on the Hub: {wrong or 'the same bytes'}")
        seconds = place.finish()
        say(f"once more: {seconds:.1f} s, {skipped(place)} unchanged, {sent(place)} was sent")
        place.run("pull", REPOSITORY, "--out", place.folder / "pulled")
        place.run("verify", place.folder / "pulled")
        ours, theirs = labels(place, place.out, "torch"), labels(place, REPOSITORY, "onnx")
        names = [name for name in ours if ours[name].dtype == object]
        agree = (ours[names].fillna("") == theirs[names].fillna("")).all(axis=1)
        say(f"pulled, verified, and through ONNX Runtime {int(agree.sum())} of {len(agree)} cells as through torch")
        return 0 if not wrong and agree.all() else 1


if __name__ == "__main__":
    sys.exit(main())

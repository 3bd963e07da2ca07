"""Build and push the shipped reference, and kill the command at eight points: ``python -m tests.fuzz.builds``.

A server on this machine sends the real cells in the format of GEO, and a small Hub receives the reference. After each
SIGKILL the same command runs again. The final files must equal the files of an uninterrupted build byte for byte. The
pulled reference must give the same labels with ONNX Runtime as the built reference with torch.
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
# Seconds that the Hub waits before it answers an upload or a commit, so that the command can be killed meanwhile.
SLOW = 3.0


class BuildRun:
    """A build command with its own folder and log."""

    def __init__(self, folder: Path, mirror: str, hub: LoopbackHub) -> None:
        self.folder, self.hub = folder, hub
        self.out, self.work, self.cache = folder / "islets", folder / ".islets.build", folder / "cache"
        self.log = folder / "log.txt"
        folder.mkdir()
        words = ("build", "pancreas", "--variant", "shipped", "--mirror", mirror, "--cache", self.cache)
        self.command = spikgpt(*words, "--out", self.out, "--push", REPOSITORY)
        self.environment = os.environ | {
            **{"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "x", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf")},
            "SPIKGPT_CACHE": str(folder / "kept"),
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.command, env=self.environment, cwd=self.folder, stderr=log, start_new_session=True
            )

    def finish(self) -> float:
        """Run the command to its end, and return the seconds."""
        started = time.perf_counter()
        if self.start().wait():
            sys.exit(f"The command failed: {self.read_log()}")
        return time.perf_counter() - started

    def kill(self, ready: Callable[[], bool]) -> float:
        """Start the command, kill it when ``ready()`` is true, and return the seconds until then."""
        started, process = time.perf_counter(), self.start()
        while not ready():
            if process.poll() is not None:
                sys.exit(f"The command ended before it could be killed: {self.read_log()}")
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return time.perf_counter() - started

    def run(self, *words: object) -> None:
        """Run another command to its end."""
        subprocess.run(spikgpt(*words), env=self.environment, cwd=self.folder, check=True, capture_output=True)

    def read_log(self) -> str:
        """Return the log of the last run of the command."""
        return self.log.read_text()

    def files(self) -> dict[str, bytes]:
        """Return the files of a build by path, without the state file, which lists the times of the files."""
        return {
            f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
            for folder in (self.out, self.work)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "steps.json"
        }

    def pushed(self) -> dict[str, bytes]:
        """Return the files that the command has pushed to the Hub, by path."""
        commit = self.hub.repositories[REPOSITORY].at("main")
        return dict(commit.files) if commit else {}


def points(build: BuildRun) -> dict[str, Callable[[], bool]]:
    """Return the points at which to kill the command, each with a function that tells if the point is reached."""
    folder = build.cache / "GSE84133"
    prepared, checkpoints = build.work / "prepared", build.work / "checkpoints"

    def requested(pattern: str) -> bool:
        return any(re.search(pattern, f"{sent.method} {sent.path}") for sent in build.hub.requests)

    return {
        "a part of the archive is downloaded": lambda: any(
            part.stat().st_size > 1_000_000 for part in folder.glob("*/.GSE84133_RAW.tar.part")
        ),
        "the cells of one donor are cached": lambda: any(prepared.glob(".parts.*/0.npz")),
        "some epochs of the training for the thresholds are done": lambda: any(
            checkpoints.glob("* all/held-out.safetensors")
        ),
        "some epochs of the training on all cells are done": lambda: (
            len(list(checkpoints.glob("* all/*.safetensors"))) == 2
        ),
        "some epochs of the training without alpha cells are done": lambda: any(
            checkpoints.glob("* without */*.safetensors")
        ),
        "the graphs are exported": lambda: any(build.work.glob(".built.*/built")),
        "the Hub receives a file": lambda: requested("PUT /lfs/"),
        "the Hub receives the commit": lambda: requested("POST .*/commit/"),
    }


def run_killed_build(build: BuildRun, server: FileServer) -> None:
    """Kill the command at each point, then run the command to its end; print one line for each run."""
    server.faults, server.requests = ["slow"], []
    build.hub.requests.clear()
    build.hub.fail(Fault("slow", "PUT /lfs/", seconds=SLOW), Fault("slow", "POST .*/commit/", seconds=SLOW))
    for point, ready in points(build).items():
        seconds = build.kill(ready)
        time.sleep(SLOW if "Hub" in point else 0)  # wait until the Hub has handled the request
        n_pushed = len(build.pushed()) if REPOSITORY in build.hub.repositories else 0
        state = "a complete reference" if (build.out / "manifest.json").exists() else "no reference"
        print_line(
            f"killed after {seconds:.1f} s, when {point}: {unchanged_steps(build)} unchanged, {state}, "
            f"{n_pushed} files on the Hub"
        )
    build.hub.clear_faults()
    print_line(
        f"not killed: done after {build.finish():.1f} s, {unchanged_steps(build)} unchanged, {sent(build)} was sent"
    )
    print_line(f"the archive was requested from {', '.join(start or 'the start' for _, start in server.requests)}")


def unchanged_steps(build: BuildRun) -> str:
    """Return the names of the steps that the last run did not repeat, or ``nothing``."""
    return ", ".join(step for step in STEPS if f"{step} (unchanged)" in build.read_log()) or "nothing"


def sent(build: BuildRun) -> str:
    """Return ``nothing`` if the command sent no file to the Hub, else ``something``."""
    return "nothing" if "Nothing changed, as every file is there already" in build.read_log() else "something"


def differing_files(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """Return the names of files with different bytes, and of files that only one of two folders has."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def print_line(text: str) -> None:
    """Print and flush a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def labels(build: BuildRun, model: object, engine: str) -> pd.DataFrame:
    """Annotate real cells of other donors, and return the table of labels."""
    table = build.folder / f"{engine}.csv"
    build.run("annotate", CELLS, "--model", model, "--engine", engine, "--table", table)
    return pd.read_csv(table)


def main() -> int:
    """Compare a killed build with an uninterrupted one, pull and annotate; return 1 if files or labels differ."""
    with tempfile.TemporaryDirectory() as folder, FileServer() as server, LoopbackHub() as hub:
        pancreas(read_data(CELLS.parent, "pancreas_baron_human*.h5ad"), Path(folder, "mirror"))
        archive = Path(folder, "mirror", "GSE84133", "GSE84133_RAW.tar")
        server.files["/mirror/GSE84133/GSE84133_RAW.tar"] = archive.read_bytes()
        uninterrupted = BuildRun(Path(folder, "whole"), f"{server.url}/mirror", hub)
        print_line(f"uninterrupted: {uninterrupted.finish():.1f} s")
        expected, expected_on_hub = uninterrupted.files(), uninterrupted.pushed()
        del hub.repositories[REPOSITORY]
        hub.uploads.clear()
        build = BuildRun(Path(folder, "killed"), f"{server.url}/mirror", hub)
        run_killed_build(build, server)
        differing = differing_files(expected, build.files()) + differing_files(expected_on_hub, build.pushed())
        print_line(f"{len(expected)} local files and {len(expected_on_hub)} on the Hub: {differing or 'same bytes'}")
        seconds = build.finish()
        print_line(f"repeated: {seconds:.1f} s, {unchanged_steps(build)} unchanged, {sent(build)} was sent")
        build.run("pull", REPOSITORY, "--out", build.folder / "pulled")
        build.run("verify", build.folder / "pulled")
        by_torch, by_onnx = labels(build, build.out, "torch"), labels(build, REPOSITORY, "onnx")
        names = [name for name in by_torch if by_torch[name].dtype == object]
        equal = (by_torch[names].fillna("") == by_onnx[names].fillna("")).all(axis=1)
        print_line(
            f"pulled and verified; {int(equal.sum())} of {len(equal)} labels by ONNX Runtime equal those by torch"
        )
        return 0 if not differing and equal.all() else 1


if __name__ == "__main__":
    sys.exit(main())

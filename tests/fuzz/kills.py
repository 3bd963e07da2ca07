"""Commands that are killed at random moments, then run again: ``python -m tests.fuzz.kills --count 50 --seed 0``.

After SIGKILL, what a command writes is whole or not there; the same command run again ends well, with the same bytes of
references or the same labels of cells as one that was left alone, and leaves nothing else behind but hidden folders of
the run that was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from spikgpt.errors import SpikGPTError
from spikgpt.reference.format import verified_files
from spikgpt.reference.registry import shipped_references
from tests.fuzz.answers import files_of
from tests.fuzz.outcomes import Counted, run, tally
from tests.hub_server import LoopbackHub

DATA = Path(__file__).resolve().parents[1] / "data"
CELLS, DONOR = DATA / "pancreas_baron_human2_human4.h5ad", DATA / "pancreas_baron_human3.h5ad"
GOOD = ("right", "done before")
COMMANDS = ("annotate", "export", "pull", "push", "train")


class Killing:
    """A folder in which commands run, a Hub, and what each command gives when it is left alone."""

    def __init__(self, folder: Path, hub: LoopbackHub, commands: Sequence[str]) -> None:
        self.folder, self.hub = folder, hub
        reference = folder / "reference"
        shutil.copytree(shipped_references()["pancreas"], reference)
        hub.put("me/pancreas", files_of(reference))
        if "train" in commands:
            donor = anndata.read_h5ad(DONOR)
            donor[np.arange(0, donor.n_obs, 2)].write_h5ad(folder / "donor.h5ad")
        self.seconds: dict[str, float] = {}
        self.expected = {}
        for command in commands:
            started = time.perf_counter()
            place = self.place(command)
            run = self.run(command, place)
            assert run.returncode == 0, run.stderr
            self.seconds[command] = time.perf_counter() - started
            self.expected[command] = self.found(command, place)
            shutil.rmtree(place)

    def environment(self, place: Path) -> dict[str, str]:
        """Give each case caches of its own."""
        own = {"HF_HOME": str(place / ".hf"), "SPIKGPT_CACHE": str(place / ".cache")}
        return os.environ | {"HF_ENDPOINT": self.hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "x"} | own

    def place(self, command: str) -> Path:
        """Make a folder for one case."""
        return Path(tempfile.mkdtemp(prefix=f"{command}-", dir=self.folder))

    def arguments(self, command: str, place: Path) -> list[str]:
        """Return the command line of a case."""
        out = place / "out"
        return {
            "annotate": spikgpt(
                *("annotate", CELLS, "--model", "pancreas", "--out", place / "out.h5ad", "--table", place / "out.csv")
            ),
            "export": spikgpt("export", "pancreas", "--out", out),
            "pull": spikgpt("pull", "me/pancreas", "--out", out),
            "push": spikgpt("push", self.folder / "reference", "me/pushed"),
            "train": spikgpt("train", self.folder / "donor.h5ad", "--label-key", "cell_type", "--out", out),
        }[command]

    def run(self, command: str, place: Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.arguments(command, place), env=self.environment(place), cwd=place, capture_output=True, text=True
        )

    def found(self, command: str, place: Path) -> object:
        """Return what a command has written, None if that is not there; what is not whole raises."""
        if command == "annotate":
            if not (place / "out.h5ad").exists():
                return None
            labels = anndata.read_h5ad(place / "out.h5ad").obs
            table = pd.read_csv(place / "out.csv") if (place / "out.csv").exists() else None
            return labels.to_csv(), None if table is None else table.to_csv()
        if command == "push":
            repository = self.hub.repositories.get("me/pushed")
            commit = repository.at("main") if repository else None
            return commit.files if commit else None
        return verified_files(place / "out") if (place / "out").exists() else None

    def case(self, command: str, moment: float) -> str:
        """Kill a command after a share of its usual time, run it again, and say what became of it."""
        place = self.place(command)
        self.hub.repositories.pop("me/pushed", None)
        with subprocess.Popen(
            self.arguments(command, place),
            env=self.environment(place),
            cwd=place,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(moment * self.seconds[command])
            done = process.poll() is not None
            if not done:
                os.killpg(process.pid, signal.SIGKILL)
        try:
            left = self.found(command, place)
        except (SpikGPTError, OSError, ValueError, KeyError) as error:
            return f"half written: {error}"
        # A repository may be there, and empty still.
        if command != "annotate" and left and left != self.expected[command]:
            return "half written: other bytes"
        run = self.run(command, place)
        there = run.returncode == 2 and "already holds" in run.stderr and left is not None
        if run.returncode and not there:
            return f"not run again: {run.stderr.strip()[-300:]}"
        if self.found(command, place) != self.expected[command]:
            return "other result"
        if visible := {path.name for path in place.iterdir() if path.name[0] != "."} - {"out", "out.h5ad", "out.csv"}:
            return f"left behind: {visible}"
        shutil.rmtree(place)
        return "done before" if done else "right"


def spikgpt(*words: object) -> list[str]:
    """Return a command line of spikgpt."""
    return [sys.executable, "-c", "from spikgpt.cli.main import main; main()", *map(str, words)]


def kill(
    count: int, seed: int, *, progress: bool = False, commands: Sequence[str] = COMMANDS
) -> tuple[Counted, list[str]]:
    """Return how often each command came to each outcome, and what failed."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, LoopbackHub() as hub:
        killing = Killing(Path(folder), hub, commands)

        def attempt(number: int) -> tuple[str, str, str]:
            command, moment = commands[number % len(commands)], float(random.uniform(0, 1))
            return command, killing.case(command, moment), f"{command} at {moment:.2f} of its time"

        return tally(count, GOOD, attempt, progress=progress)


if __name__ == "__main__":
    sys.exit(run(kill, GOOD, __doc__, 50))

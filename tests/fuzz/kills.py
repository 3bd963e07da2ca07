"""Kill commands at random moments and run them again: ``python -m tests.fuzz.kills --count 50 --seed 0``.

After SIGKILL, each output must be complete or absent. The repeated command must succeed with the same bytes of
references or the same labels of cells as an uninterrupted command. Only hidden folders of the killed run may remain.
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
from tests.fuzz.alter_answers import files_of
from tests.fuzz.outcome_table import OutcomeCounts, count_outcomes, run
from tests.hub_server import LoopbackHub

DATA = Path(__file__).resolve().parents[1] / "data"
CELLS, DONOR = DATA / "pancreas_baron_human2_human4.h5ad", DATA / "pancreas_baron_human3.h5ad"
GOOD = ("right", "done before the kill")
COMMANDS = ("annotate", "export", "pull", "push", "train")


class KilledCommands:
    """Commands with a folder and a Hub, and the output and duration of each uninterrupted command."""

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
            case_folder = self.new_folder(command)
            run = self.run(command, case_folder)
            assert run.returncode == 0, run.stderr
            self.seconds[command] = time.perf_counter() - started
            self.expected[command] = self.output(command, case_folder)
            shutil.rmtree(case_folder)

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment variables of a case, with separate caches."""
        own = {"HF_HOME": str(folder / ".hf"), "SPIKGPT_CACHE": str(folder / ".cache")}
        return os.environ | {"HF_ENDPOINT": self.hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "x"} | own

    def new_folder(self, command: str) -> Path:
        """Create a folder for one case."""
        return Path(tempfile.mkdtemp(prefix=f"{command}-", dir=self.folder))

    def arguments(self, command: str, folder: Path) -> list[str]:
        """Return the command line of a case."""
        out = folder / "out"
        return {
            "annotate": spikgpt(
                *("annotate", CELLS, "--model", "pancreas", "--out", folder / "out.h5ad", "--table", folder / "out.csv")
            ),
            "export": spikgpt("export", "pancreas", "--out", out),
            "pull": spikgpt("pull", "me/pancreas", "--out", out),
            "push": spikgpt("push", self.folder / "reference", "me/pushed"),
            "train": spikgpt("train", self.folder / "donor.h5ad", "--label-key", "cell_type", "--out", out),
        }[command]

    def run(self, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.arguments(command, folder), env=self.environment(folder), cwd=folder, capture_output=True, text=True
        )

    def output(self, command: str, folder: Path) -> object:
        """Return the output of a command, or None if there is no output; raise an error if the output is incomplete."""
        if command == "annotate":
            if not (folder / "out.h5ad").exists():
                return None
            labels = anndata.read_h5ad(folder / "out.h5ad").obs
            table = pd.read_csv(folder / "out.csv") if (folder / "out.csv").exists() else None
            return labels.to_csv(), None if table is None else table.to_csv()
        if command == "push":
            repository = self.hub.repositories.get("me/pushed")
            commit = repository.at("main") if repository else None
            return commit.files if commit else None
        return verified_files(folder / "out") if (folder / "out").exists() else None

    def case(self, command: str, moment: float) -> str:
        """Kill a command after a share ``moment`` of its usual time, run it again, and return the outcome."""
        folder = self.new_folder(command)
        self.hub.repositories.pop("me/pushed", None)
        with subprocess.Popen(
            self.arguments(command, folder),
            env=self.environment(folder),
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(moment * self.seconds[command])
            done = process.poll() is not None
            if not done:
                os.killpg(process.pid, signal.SIGKILL)
        try:
            before = self.output(command, folder)
        except (SpikGPTError, OSError, ValueError, KeyError) as error:
            return f"half written: {error}"
        # A repository may exist without a commit.
        if command != "annotate" and before and before != self.expected[command]:
            return "half written: other bytes"
        run = self.run(command, folder)
        complete = run.returncode == 2 and "already holds" in run.stderr and before is not None
        if run.returncode and not complete:
            return f"not run again: {run.stderr.strip()[-300:]}"
        if self.output(command, folder) != self.expected[command]:
            return "other result"
        if visible := {path.name for path in folder.iterdir() if path.name[0] != "."} - {"out", "out.h5ad", "out.csv"}:
            return f"left behind: {visible}"
        shutil.rmtree(folder)
        return "done before the kill" if done else "right"


def spikgpt(*words: object) -> list[str]:
    """Return the command line that runs spikgpt with the given arguments."""
    return [sys.executable, "-c", "from spikgpt.cli.main import main; main()", *map(str, words)]


def kill(
    count: int, seed: int, *, progress: bool = False, commands: Sequence[str] = COMMANDS
) -> tuple[OutcomeCounts, list[str]]:
    """Return the number of each outcome by command, and the failures."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, LoopbackHub() as hub:
        fuzzer = KilledCommands(Path(folder), hub, commands)

        def attempt(number: int) -> tuple[str, str, str]:
            command, moment = commands[number % len(commands)], float(random.uniform(0, 1))
            return command, fuzzer.case(command, moment), f"{command} at {moment:.2f} of its time"

        return count_outcomes(count, GOOD, attempt, progress=progress)


if __name__ == "__main__":
    sys.exit(run(kill, GOOD, __doc__, 50))

"""Finished steps of a build, each with a hash of its inputs: unchanged steps are not repeated."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from spikgpt.files import replacing
from spikgpt.version import __version__

FILE = "steps.json"


class BuildState:
    """The finished steps in a folder, with the hash of their inputs and their results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Hidden files are the unfinished output of a killed build.
        for path in folder.glob(".*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            self._steps: dict[str, Any] = json.loads((folder / FILE).read_text())
        except (FileNotFoundError, ValueError):
            self._steps = {}

    def result(self, step: str, key: str) -> Any:
        """Return the result of a step; None if the step was not finished with the inputs of this hash."""
        finished = self._steps.get(step, {})
        return finished.get("found") if finished.get("key") == key else None

    def remove(self, step: str) -> None:
        """Remove a step before it is repeated with other inputs."""
        if self._steps.pop(step, None):
            self._write()

    def save(self, step: str, key: str, result: Any) -> None:
        """Save the result of a finished step."""
        self._steps[step] = {"key": key, "found": result}
        self._write()

    def _write(self) -> None:
        with replacing(self.folder / FILE) as temporary:
            temporary.write_text(json.dumps(self._steps, indent=1) + "\n")


def hash_inputs(*inputs: Any) -> str:
    """Return the sha256 of plain values and of the version of this library."""
    return hashlib.sha256(json.dumps([__version__, *inputs], sort_keys=True).encode()).hexdigest()

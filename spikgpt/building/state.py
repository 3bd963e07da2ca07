"""What was done of a build, so that a step is done again only if what goes into it has changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from spikgpt.files import replacing
from spikgpt.version import __version__

FILE = "steps.json"


class State:
    """The steps that were done in a folder, each with a key of its inputs and with what it found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # What a killed build was writing.
        for left in folder.glob(".*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            self._done: dict[str, Any] = json.loads((folder / FILE).read_text())
        except (FileNotFoundError, ValueError):
            self._done = {}

    def found(self, step: str, key: str) -> Any:
        """Return what a step found with these inputs, or None if it was not done with them."""
        done = self._done.get(step, {})
        return done.get("found") if done.get("key") == key else None

    def forget(self, step: str) -> None:
        """Forget a step that is about to be done with other inputs: what it was done with before is written over."""
        if self._done.pop(step, None):
            self._write()

    def keep(self, step: str, key: str, found: Any) -> None:
        """Keep that a step is done."""
        self._done[step] = {"key": key, "found": found}
        self._write()

    def _write(self) -> None:
        with replacing(self.folder / FILE) as temporary:
            temporary.write_text(json.dumps(self._done, indent=1) + "\n")


def key_of(*inputs: Any) -> str:
    """Return the sha256 of plain values and of the version of this library."""
    return hashlib.sha256(json.dumps([__version__, *inputs], sort_keys=True).encode()).hexdigest()

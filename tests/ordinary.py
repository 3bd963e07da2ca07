"""Commands as an ordinary user runs them, whom the modes of files bind, whoever runs the tests."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from tests.cli.conftest import PROGRAM, Ran

# What lets root read and write whatever it likes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, in Linux's numbers.
OVERRIDING, DROP_FROM_BOUNDING_SET = (1, 2), 24
# Where anything is kept between runs, beside the home folder.
PLACES = ("SPIKGPT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "NUMBA_CACHE_DIR")


def run_as_ordinary(*words: object, home: Path) -> Ran:
    """Run a command line of spikgpt that may not pass over the modes of files, and has nothing but a home folder."""
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    environment |= {"COLUMNS": "160", "HOME": str(home)}
    command = [*PROGRAM, *map(str, words)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=_ordinary)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def _ordinary() -> None:
    if os.geteuid() == 0:
        library = ctypes.CDLL(None)
        for capability in OVERRIDING:
            library.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)

"""Commands as an ordinary user runs them, whom the modes of files bind, whoever runs the tests."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import PROGRAM, Ran

# What lets root read and write whatever it likes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, in Linux's numbers.
OVERRIDING, DROP_FROM_BOUNDING_SET = (1, 2), 24
# Where anything is kept between runs, beside the home folder.
PLACES = ("SPIKGPT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "NUMBA_CACHE_DIR")


# Runs command lines one after another.
SEVERAL = """
import json, sys
from spikgpt.cli.main import main
codes = []
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as left:
        codes.append(left.code)
print(*codes)
"""


def run_as_ordinary(*words: object, home: Path) -> Ran:
    """Run a command line of spikgpt that may not pass over the modes of files, and has nothing but a home folder."""
    return _run([*PROGRAM, *map(str, words)], home)


def run_all_as_ordinary(*commands: tuple[object, ...], home: Path) -> Ran:
    """Run command lines in one such process, which prints their exit codes."""
    return _run([sys.executable, "-c", SEVERAL, json.dumps([list(map(str, words)) for words in commands])], home)


def _run(command: list[str], home: Path) -> Ran:
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    environment |= {"COLUMNS": "160", "HOME": str(home)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=_ordinary)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def _ordinary() -> None:
    if os.geteuid() == 0:
        library = ctypes.CDLL(None)
        for capability in OVERRIDING:
            library.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)

"""Run commands without the privileges of root, so that file permissions apply even if root runs the tests."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import PROGRAM, Ran

# Linux numbers of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which root ignores file permissions, and of
# PR_CAPBSET_DROP.
OVERRIDING, DROP_FROM_BOUNDING_SET = (1, 2), 24
# Environment variables with cache folders outside of the home folder.
CACHE_VARIABLES = ("SPIKGPT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "NUMBA_CACHE_DIR")


# Program that runs command lines one after another.
SEVERAL = """
import json, sys
from spikgpt.cli.main import main
codes = []
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as error:
        codes.append(error.code)
print(*codes)
"""


def run_as_ordinary(*words: object, home: Path) -> Ran:
    """Run a command line of spikgpt without the privileges of root, with a home folder and no other caches."""
    return _run([*PROGRAM, *map(str, words)], home)


def run_all_as_ordinary(*commands: tuple[object, ...], home: Path) -> Ran:
    """Run command lines in one process without the privileges of root; the process prints their exit codes."""
    return _run([sys.executable, "-c", SEVERAL, json.dumps([list(map(str, words)) for words in commands])], home)


def _run(command: list[str], home: Path) -> Ran:
    environment = {name: value for name, value in os.environ.items() if name not in CACHE_VARIABLES}
    environment |= {"COLUMNS": "160", "HOME": str(home)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=_ordinary)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def _ordinary() -> None:
    if os.geteuid() == 0:
        library = ctypes.CDLL(None)
        for capability in OVERRIDING:
            library.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)

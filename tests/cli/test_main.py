"""The entry point of the command line: the version, and errors of standard output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import spikgpt
from tests.cli.conftest import PROGRAM


def test_version_of_the_installed_command() -> None:
    command = [str(Path(sys.executable).with_name("spikgpt")), "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == f"spikgpt {spikgpt.__version__}\n"
    assert ran.stderr == ""


def test_the_version_loads_no_command() -> None:
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules)); sys.argv[1:] = ['--version']; "
        "from spikgpt.cli.main import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    version, loaded = ran.stdout.splitlines()
    assert version == f"spikgpt {spikgpt.__version__}"
    assert not {"typer", "rich", "msgspec", "numpy"} & {*loaded.split()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["list", "--offline"]])
def test_a_full_disk_behind_standard_output_is_an_error(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: Standard output cannot be written. No space left on device"), ran.stderr

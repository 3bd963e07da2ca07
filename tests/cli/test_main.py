"""The command line as a whole: help, versions, completion, and that a user's mistake is one line and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spikgpt
from spikgpt.cli.main import app
from tests.cli.conftest import PROGRAM, Ran, Run, assert_refused

COMMANDS = (
    *("annotate", "evaluate", "train", "novelty", "embed", "convert-scgpt", "pretrain"),
    *("info", "list", "verify", "pull", "push", "export", "doctor"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"Usage: spikgpt {command}" in ran.out


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert all(command in ran.out for command in COMMANDS)


def test_version_of_the_installed_command() -> None:
    command = [str(Path(sys.executable).with_name("spikgpt")), "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == f"spikgpt {spikgpt.__version__}\n"
    assert ran.stderr == ""


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    arguments = ["annotate", "missing.h5ad", "--model", "pancreas", "--out", "out.h5ad"]
    ran = subprocess.run([*PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert_refused(Ran(ran.returncode, ran.stdout, ran.stderr), "missing.h5ad is no file (nothing there)")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_option_is_a_usage_error(run: Run, query_file: Path) -> None:
    ran = run("annotate", query_file)
    assert ran.code == 2
    assert "Missing option" in ran.err
    assert "Traceback" not in ran.err


def test_help_shows_what_stands_in_brackets(run: Run) -> None:
    assert "[@REVISION]" in run("annotate", "--help").out

"""The command line: help, versions, completion, and errors of users (one line, exit code 2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import PROGRAM, Ran, Run, assert_refused

COMMANDS = (
    *("annotate", "evaluate", "train", "leave-one-type-out", "embed", "convert-scgpt", "pretrain"),
    *("info", "list", "card", "verify", "pull", "push", "export", "doctor"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"Usage: spikgpt {command}" in ran.out


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert all(command in ran.out for command in COMMANDS)


def test_a_missing_file_is_refused_in_a_separate_process(tmp_path: Path) -> None:
    arguments = ["annotate", "missing.h5ad", "--model", "pancreas", "--out", "out.h5ad"]
    ran = subprocess.run([*PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert_refused(Ran(ran.returncode, ran.stdout, ran.stderr), "missing.h5ad is not there; give an .h5ad file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("annotate", "QUERY"), "Missing option '--model'. Reference: a name that `spikgpt list` shows, a folder,"),
        (("annotate", "--model", "pancreas"), "Missing argument 'QUERY'. Cells to label:"),
        (
            ("annotate", "Q", "Q2", "--model", "pancreas"),
            "spikgpt annotate takes one QUERY, not 2. Run the command once for each",
        ),
        (("list", "pancreas"), "spikgpt list takes options only."),
        (("annotate", "QUERY", "-m", "pancreas"), "No such option: -m. Did you mean --model or"),
        (("annotate", "QUERY", "--modle", "pancreas"), "--model"),
        (("annotate", "QUERY", "--unknown-rate", "5%"), "'--unknown-rate': expected a number such as 0.05, with a"),
        (("annotate", "QUERY", "--threshold", "0,95"), "'--threshold': expected a number such as 0.05, with a"),
        (("annotate", "QUERY", "--batch-size", "1.5"), "'--batch-size': expected a whole number, such as 100."),
        (("annotat", "QUERY"), "Did you mean 'annotate'?"),
    ],
)
def test_a_wrong_argument_gets_a_suggestion(run: Run, words: tuple[str, ...], message: str) -> None:
    ran = run(*words)
    assert_refused(ran, message)
    assert "--help." in ran.err


def test_help_shows_text_in_brackets(run: Run) -> None:
    assert "[@REVISION]" in run("annotate", "--help").out


def test_the_start_loads_no_large_package() -> None:
    program = (
        "import sys; from spikgpt.cli.app import app; app(['--version'], standalone_mode=False); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("numpy", "pandas", "scipy", "anndata", "huggingface_hub", "tqdm", "torch", "rich.table")
    assert not [module for module in heavy if module in loaded]


@pytest.mark.slow
def test_labelling_loads_no_module_of_another_task(query_file: Path, tmp_path: Path) -> None:
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from spikgpt.cli.main import main; main()"
    )
    arguments = ["annotate", query_file, "--model", "pancreas", "--table", tmp_path / "labels.csv"]
    ran = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert (ran.returncode, (tmp_path / "labels.csv").exists()) == (0, True), ran.stderr
    loaded = {*ran.stdout.split()}
    assert "anndata" in loaded
    # Each of these packages takes longer to import than a small file takes to label.
    assert not loaded & {"torch", "sklearn", "matplotlib", "scipy.optimize", "scipy.spatial", "scipy.stats", "scipy.io"}


def test_shell_completion() -> None:
    def complete(*words: str, **environment: str) -> list[str]:
        ran = subprocess.run(
            [*PROGRAM, *words], env=os.environ | environment, capture_output=True, text=True, check=True
        )
        return ran.stdout.split()

    script = complete("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script[-5:] == ["complete", "-o", "default", "-F", "_spikgpt_completion", "spikgpt"][-5:]

    def completions(line: str) -> list[str]:
        return complete(_SPIKGPT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(line.count(" ")))

    assert completions("spikgpt p") == ["pull", "push", "pretrain"]
    assert completions("spikgpt annotate x --engine ") == ["auto", "onnx", "numpy", "torch"]


def test_a_closed_pipe_is_no_error_message() -> None:
    command = [*PROGRAM, "info", "pancreas"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.close()
        assert (ran.wait(), ran.stderr.read()) == (1, "")


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("torch", ["train", "cells.h5ad", "--label-key", "type", "--out", "mine"]),
        pytest.param("onnx", ["export", "pancreas", "--out", "mine"], marks=pytest.mark.slow),
        pytest.param(
            "pyarrow",
            ["annotate", "cells.h5ad", "--model", "pancreas", "--table", "labels.parquet"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_missing_package_is_named(
    run: Run, query_file: Path, tmp_path: Path, package: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.h5ad").symlink_to(query_file)
    program = f"import sys; sys.modules['{package}'] = None; {PROGRAM[-1]}"
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert_refused(Ran(ran.returncode, ran.stdout, ran.stderr), f"Run: pip install '{package}>=")
    assert f"This needs {package}, which cannot be imported" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_without_a_command_there_is_help(run: Run) -> None:
    ran = run()
    assert ran.code == 0
    assert "Usage: spikgpt [OPTIONS] COMMAND" in ran.out
    assert_refused(run("anotate"), "No such command 'anotate'. Did you mean 'annotate'? See spikgpt --help.")


def test_doctor_lists_working_packages_and_devices(run: Run) -> None:
    ran = run("doctor")
    assert ran.code == 0
    assert f"ok  numpy: {np.__version__}" in ran.out
    assert "ok  cpu: works" in ran.out
    assert "cuda: " in ran.out


def test_doctor_warns_of_two_distributions_of_onnx_runtime(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikgpt.engines.onnx_session.version", lambda name: "1.32.0")
    ran = run("doctor")
    assert ran.code == 1
    assert "--  ONNX Runtime: onnxruntime 1.32.0, onnxruntime-gpu 1.32.0: " in ran.out
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in ran.out

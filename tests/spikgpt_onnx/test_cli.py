"""The command line without torch, as a user meets it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import anndata
import pandas as pd
import pytest

from spikgpt_onnx import runtime
from spikgpt_onnx.cli import main
from tests.conftest import QUERY_FILE


def run(*arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def test_annotate_writes_both_files_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "out.h5ad", tmp_path / "labels.csv"
    assert run("annotate", QUERY_FILE, "--model", "pancreas", "--out", out, "--table", table) == 0
    said = capsys.readouterr().err
    assert "Read counts from X; scaling: composition; ran on cpu." in said
    assert "1000 of the reference's 1000 genes are in the query." in said
    assert f"Wrote {out} and {table}" in said
    labels = anndata.read_h5ad(out).obs["spikgpt_label"]
    assert labels.tolist() == pd.read_csv(table)["spikgpt_label"].tolist()
    assert f"{'alpha':<18}  {(labels == 'alpha').sum():>8,}" in said


def test_every_option_reaches_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--alone", "--scaling", "reference", "--threshold", "0.99", "--batch-size", "100", "--threads", "1"]
    options += ["--provider", "cpu", "--precision", "int8", "--no-memory-arena", "--not-strict", "--offline"]
    assert run("annotate", QUERY_FILE, "--model", "pancreas", "--table", tmp_path / "a.csv", *options) == 0
    said = capsys.readouterr().err
    assert "scaling: reference" in said
    assert "% Unknown: a probability below 0.9900." in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_which_cells_are_unknown_is_the_users_to_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        (["--unknown-rate", "0.02"], "Unknown: less familiar than 98% of held-out known cells."),
        (["--recalibrate"], "Unknown: less familiar than 95% of held-out known cells, as far as this query spreads."),
        (["--no-unknown"], "0.0% Unknown: no cell is rejected."),
    ):
        assert run("annotate", QUERY_FILE, "--model", "pancreas", "--table", tmp_path / "a.csv", *options) == 0
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.h5ad", "--model", "pancreas", "--table", "a.csv"], "no.h5ad is no file (nothing there)"),
        ([QUERY_FILE, "--model", "pancreas"], "Nothing would be written; name an h5ad file with --out"),
        ([QUERY_FILE, "--model", "pancreas", "--out", QUERY_FILE], "is the input; name another file"),
        ([QUERY_FILE, "--model", "pancreas", "--table", "a.xlsx"], "ends in '.xlsx'; a table is written as .csv"),
        ([QUERY_FILE, "--model", "/no/such", "--table", "a.csv"], "There is no folder '/no/such'"),
        ([QUERY_FILE, "--model", "pancreas", "--table", "a.csv", "--threshold", "7"], "The threshold is 7.0; expected"),
        ([QUERY_FILE, "--model", "pancreas", "--table", "a.csv", "--threads", "0"], "threads is 0; it must be"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[object],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("annotate", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spikgpt_onnx.annotation.Annotation.write_h5ad", interrupt)
    assert run("annotate", QUERY_FILE, "--model", "pancreas", "--out", tmp_path / "out.h5ad") == 130
    assert "Interrupted." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_doctor_tells_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    said = capsys.readouterr().out
    assert f"ok  numpy: {importlib.metadata.version('numpy')}" in said
    assert "ok  cpu: works" in said
    assert "cuda: " in said


def test_doctor_tells_of_two_distributions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runtime, "version", lambda name: "1.32.0")
    assert run("doctor") == 1
    said = capsys.readouterr().out
    assert "--  ONNX Runtime: onnxruntime 1.32.0, onnxruntime-gpu 1.32.0: " in said
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in said


def test_the_command_is_installed_and_states_its_version() -> None:
    command = Path(sys.executable).with_name("spikgpt-onnx")
    ran = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"spikgpt-onnx {importlib.metadata.version('spikgpt-onnx')}"
    assert importlib.metadata.version("spikgpt-onnx") == importlib.metadata.version("spikgpt")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("annotate", "--help") == 0
    said = capsys.readouterr().out
    for option in ("--model", "--out", "--table", "--alone", "--provider", "--precision", "--threads", "--offline"):
        assert option in said

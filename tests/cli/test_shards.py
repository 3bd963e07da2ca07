"""``spikgpt annotate`` labels several files as one query."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from spikgpt import SpikGPT
from tests.cli.conftest import Run, assert_refused


def test_out_dir_holds_a_part_of_each_shard(run: Run, query_file: Path, shipped: SpikGPT, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    command = ("annotate", query_file, "--model", "pancreas", "--out-dir", folder, "--shard-size", 50)
    ran = run(*command)
    assert ran.code == 0, ran.err
    assert f"Wrote 3 parts into {folder}" in ran.err
    assert "Read counts from X" in ran.err
    table = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]).set_index("cell")
    expected = shipped.annotate(query_file)
    assert table["spikgpt_label"].tolist() == expected.labels.tolist()
    assert set(json.loads((folder / "manifest.json").read_bytes())["parts"]) == {
        path.name for path in folder.glob("*.parquet")
    }
    again = run(*command)
    assert again.code == 0
    assert "3 of them by an earlier run" in again.err
    assert_refused(run(*command, "--no-smoothing"), "smoothing was True, is False")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", 2], "need --out-dir"),
        (["--shard-size", 10, "--out", "a.h5ad"], "need --out-dir"),
        (["--out-dir", "labels", "--workers", 2, "--scheduler", "tcp://127.0.0.1:9"], "choose one"),
        (["--out-dir", "labels", "--out", "a.h5ad"], "leave out --out,"),
        (["--out-dir", "labels", "--workers", 0], "at least 1"),
        (["--out-dir", "labels", "no.h5ad"], "no.h5ad does not exist"),
    ],
)
def test_other_options_are_refused(
    run: Run, query_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run("annotate", query_file, "--model", "pancreas", *words), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_named(
    run: Run, query_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikgpt.cli.shards.CONNECT_SECONDS", 2)
    command = ("annotate", query_file, "--model", "pancreas", "--out-dir", tmp_path / "labels")
    assert_refused(run(*command, "--scheduler", "tcp://127.0.0.1:9"), "cannot be reached")

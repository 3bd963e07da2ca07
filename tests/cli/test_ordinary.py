"""In folders that cannot be written, annotation works without a cache; other commands end with an error of one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import pandas as pd
import pytest

from tests.cli.conftest import SCGPT, assert_refused
from tests.conftest import DATA
from tests.fuzz.alter_answers import REPO, reference_files
from tests.hub_server import LoopbackHub
from tests.ordinary import run_all_as_ordinary, run_as_ordinary

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Only Linux can bind root to file modes.")


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """Make a read-only folder; at the end, assert that it is empty."""
    folder = tmp_path / "shut"
    folder.mkdir(mode=0o555)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
def test_annotating_works_without_a_cache(
    engine: str, query_file: Path, read_only_folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    ran = run_as_ordinary(
        "annotate", query_file, "--model", "pancreas", "--engine", engine, "--table", table, home=read_only_folder
    )
    assert ran.code == 0, ran.err
    assert len(pd.read_csv(table)) == 120
    # ONNX Runtime gives no warning that it cannot store an identifier of this machine.
    assert "onnxruntime" not in ran.err


@pytest.mark.slow
def test_embedding_works_without_a_cache(query_file: Path, read_only_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded.h5ad"
    ran = run_as_ordinary("embed", query_file, "--scgpt", SCGPT, "--out", out, home=read_only_folder)
    assert ran.code == 0, ran.err
    assert "Embeddings cannot be cached in" in ran.err
    assert anndata.read_h5ad(out).obsm["X_scGPT"].shape == (120, 96)


def test_a_pull_names_a_cache_that_cannot_be_written(read_only_folder: Path, tmp_path: Path, hub: LoopbackHub) -> None:
    hub.put(REPO, reference_files())
    ran = run_as_ordinary("pull", REPO, "--out", tmp_path / "out", "--endpoint", hub.endpoint, home=read_only_folder)
    assert_refused(
        ran, f"The cache cannot be written (Permission denied: {read_only_folder}/.cache). Free some space, or name"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(read_only_folder: Path, tmp_path: Path) -> None:
    train = ("train", DATA / "pancreas_baron_human3.h5ad", "--label-key", "cell_type")
    commands = (("pull", "pancreas"), ("export", "pancreas"), train)
    ran = run_all_as_ordinary(*((*words, "--out", read_only_folder / "out") for words in commands), home=tmp_path)
    assert ran.out.split() == ["2"] * 3, ran.err
    message = f"Error: {read_only_folder}/out cannot be written: {read_only_folder} is not writable for you."
    assert [line.startswith(message) for line in ran.err.splitlines()] == [True] * 3, ran.err

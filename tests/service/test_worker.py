"""A worker labels an upload in a folder; its messages contain no path."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from spikgpt import Annotation, SpikGPT
from spikgpt.service.messages import UPLOAD, Done, Failed, LabelJob, Model, Setup
from spikgpt.service.requests import CSV, JSON
from spikgpt.service.worker import described, load, run_job, without_folder


def test_a_job_is_labelled_in_its_folder(shipped: SpikGPT, h5ad: bytes, expected: Annotation, tmp_path: Path) -> None:
    (tmp_path / UPLOAD).write_bytes(h5ad)
    before = Path.cwd()
    job = LabelJob(folder=str(tmp_path), model="pancreas", options={"progress": False}, media=CSV)
    done = run_job(job, {"pancreas": shipped}, 120)
    assert isinstance(done, Done)
    assert done.cells == 120
    assert pd.read_csv(tmp_path / done.file)["spikgpt_label"].tolist() == expected.labels.tolist()
    assert Path.cwd() == before


def test_errors_are_messages(shipped: SpikGPT, h5ad: bytes, tmp_path: Path) -> None:
    job = LabelJob(folder=str(tmp_path), model="pancreas", options={"progress": False}, media=JSON)
    for content, limit, kind in (
        (h5ad, 119, "TooManyCells"),
        (h5ad[:5000], 120, "DataError"),
        (b"\x1f\x8b", 120, "Compressed"),
    ):
        (tmp_path / UPLOAD).write_bytes(content)
        failed = run_job(job, {"pancreas": shipped}, limit)
        assert isinstance(failed, Failed)
        assert failed.kind == kind
        assert str(tmp_path) not in failed.error
    failed = run_job(job, {}, 120)
    assert isinstance(failed, Failed)
    assert failed.kind == "InternalError"
    assert "pancreas" not in failed.error


def test_references_load_with_the_digest_that_is_expected(islets: Path) -> None:
    setup = Setup(models=(Model("pancreas"), Model(str(islets))), keywords={"engine": "numpy"}, max_cells=10)
    models = load(setup)
    assert list(models) == ["pancreas", "islets"]
    first, second = described(models).references
    assert first.labels == models["pancreas"].reference.labels.names
    assert second.engine == models["islets"].engine.name
    assert second.digest == models["islets"].reference.digest != first.digest


def test_folders_are_left_out_of_messages(tmp_path: Path) -> None:
    text = f"{tmp_path}/query.h5ad cannot be read in {tmp_path}."
    assert without_folder(text, tmp_path) == "query.h5ad cannot be read in .."

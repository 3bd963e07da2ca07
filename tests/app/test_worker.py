"""A worker labels files as the command line does, and writes the results for the page."""

from __future__ import annotations

import resource
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, annotate
from spikgpt.app import worker
from spikgpt.app.messages import CELLS, REPORT, RESULTS, TABLE, PageJob, Summary
from spikgpt.app.worker import Models, load, run_job, size_of
from spikgpt.errors import ConfigError
from spikgpt.report.texts import verdict
from spikgpt.service.messages import Done, Failed, JobProgress, Model, Reply, Setup
from spikgpt.service.worker import described


@pytest.fixture(scope="session")
def models() -> Models:
    """Load two references, as the worker of a public page does."""
    setup = Setup(models=(Model("pancreas"), Model("pbmc")), keywords={"is_open": False}, max_cells=500)
    return load(setup)


def job_of(folder: Path, query: str, model: str = "pancreas", **fields: object) -> PageJob:
    values = {"options": {"batch_key": "auto", "unknown_rate": None}, "max_bytes": 10_000_000, **fields}
    return PageJob(folder=str(folder), model=model, media="", query=query, **values)  # type: ignore[arg-type]


def run(job: PageJob, models: Models, limit: int = 500) -> tuple[Done | Failed, list[Reply]]:
    sent: list[Reply] = []
    return run_job(job, models, limit, sent.append), sent


def link_file(path: Path, folder: Path) -> str:
    """Copy a file into the folder of a job, and return the file name."""
    (folder / path.name).write_bytes(path.read_bytes())
    return path.name


def test_a_file_is_labelled_as_by_the_library(
    models: Models, few_file: Path, expected: Annotation, tmp_path: Path
) -> None:
    before = Path.cwd()
    done, sent = run(job_of(tmp_path, link_file(few_file, tmp_path), cluster_key="leiden"), models)
    assert isinstance(done, Done), done
    assert done.cells == 120
    summary = Summary.read(tmp_path)
    assert {row.label: row.cells for row in summary.rows} == expected.counts()
    assert [row.confidence is None for row in summary.rows] == [row.label == "Unknown" for row in summary.rows]
    answer = verdict(expected)
    assert (summary.verdict, summary.tone, summary.query) == (answer.title, answer.tone, few_file.name)
    assert {cluster.name for cluster in summary.clusters} == {"0", "1", "2"}
    assert summary.files == [CELLS, TABLE, REPORT]
    report = (tmp_path / RESULTS / REPORT).read_text()
    assert report.startswith("<!DOCTYPE html>")
    assert f"<title>Cell types of {few_file.name}</title>" in report
    table = pd.read_csv(tmp_path / RESULTS / TABLE, index_col=0)
    assert table["spikgpt_label"].tolist() == expected.labels.tolist()
    labelled = anndata.read_h5ad(tmp_path / RESULTS / CELLS)
    assert labelled.obs["spikgpt_label"].astype(str).tolist() == expected.labels.tolist()
    # The worker reports its steps and the number of labelled cells.
    steps = [message.step for message in sent if isinstance(message, JobProgress)]
    assert {"Reading", "Labelling", worker.WRITING} <= set(steps)
    assert any(message.done == message.total == 120 for message in sent if isinstance(message, JobProgress))
    assert Path.cwd() == before


def test_several_references_and_auto(models: Models, few: AnnData, few_file: Path, tmp_path: Path) -> None:
    for model, options in (("auto", {}), ("pancreas,pbmc", {"unknown_rate": 0.0})):
        folder = tmp_path / model
        folder.mkdir()
        done, _ = run(job_of(folder, link_file(few_file, folder), model, options=options), models)
        assert isinstance(done, Done), done
        named = ["pancreas", "pbmc"]
        if model == "auto":
            counts = annotate(few.copy(), "pancreas", progress=False).counts()
        else:
            counts = annotate(few.copy(), named, unknown_rate=0, progress=False).counts()
        summary = Summary.read(folder)
        assert {row.label: row.cells for row in summary.rows} == counts
        assert bool(summary.choice) is (model == "auto")


def test_errors_equal_those_of_the_command_line(models: Models, few_file: Path, tmp_path: Path) -> None:
    query = link_file(few_file, tmp_path)
    (tmp_path / "damaged.h5ad").write_bytes(few_file.read_bytes()[:5000])
    (tmp_path / "notes.txt").write_text("no cells")
    for fields, limit, kind, words in (
        ({}, 119, "TooManyCells", "120 cells; expected at most 119"),
        ({"query": "damaged.h5ad"}, 500, "DataError", "damaged.h5ad"),
        ({"query": "notes.txt"}, 500, "DataError", "notes.txt has 1 line"),
        ({"query": "nothing.h5ad"}, 500, "DataError", "nothing.h5ad"),
        ({"cluster_key": "nowhere"}, 500, "LabelsError", "nowhere"),
        ({"options": {"batch_key": "nowhere"}}, 500, "LabelsError", "nowhere"),
        ({"options": {"unknown_rate": 7}}, 500, "ConfigError", "unknown_rate is 7; expected"),
        ({"model": "../elsewhere"}, 500, "ReferenceNotFound", "There is no reference '../elsewhere' here; choose one"),
        ({"model": "pancreas,retina"}, 500, "ReferenceNotFound", "choose one of pancreas, pbmc"),
    ):
        given = {"query": query, **fields}
        failed, _ = run(job_of(tmp_path, **given), models, limit)  # type: ignore[arg-type]
        assert isinstance(failed, Failed), given
        assert (failed.kind, str(tmp_path) in failed.error) == (kind, False), failed
        assert words in failed.error
        assert "\n" not in failed.error
        (tmp_path / RESULTS).rmdir()


def test_a_local_page_opens_any_reference(few_file: Path, expected: Annotation, tmp_path: Path) -> None:
    setup = Setup(models=(Model("pbmc"),), keywords={"is_open": True, "local_files_only": True}, max_cells=500)
    models = load(setup)
    assert [reference.name for reference in described(models.named).references] == ["pbmc"]
    done, _ = run(job_of(tmp_path, link_file(few_file, tmp_path)), models)
    assert isinstance(done, Done), done
    assert {row.label: row.cells for row in Summary.read(tmp_path).rows} == expected.counts()
    at_hand, failed = models.at_hand()
    assert {"pancreas", "pbmc", "retina"} <= {reference.name for reference in at_hand}
    assert not failed
    assert models.at_hand()[0] is at_hand
    (tmp_path / "other").mkdir()
    refused, _ = run(job_of(tmp_path / "other", str(few_file), str(tmp_path / "no folder")), models)
    assert isinstance(refused, Failed)
    # The local page shows the message of the command line; the HTTP service would hide the message.
    assert "There is no folder" in refused.error


def test_a_large_local_file_is_not_copied(models: Models, few_file: Path, tmp_path: Path) -> None:
    done, _ = run(job_of(tmp_path, str(few_file), max_bytes=size_of(few_file) - 1), models)
    assert isinstance(done, Done)
    summary = Summary.read(tmp_path)
    assert CELLS not in summary.files
    assert TABLE in summary.files
    assert "no labelled copy was written" in summary.notes[-1]


def test_a_table_is_labelled_too(models: Models, few: AnnData, expected: Annotation, tmp_path: Path) -> None:
    some = few[:, few.var_names.isin(models.named["pancreas"].reference.genes.symbols)]
    frame = pd.DataFrame(some.X.toarray().astype(int), index=some.obs_names, columns=some.var_names)
    frame.to_csv(tmp_path / "labels.csv")
    done, _ = run(job_of(tmp_path, "labels.csv"), models)
    assert isinstance(done, Done), done
    table = pd.read_csv(tmp_path / RESULTS / TABLE, index_col=0)
    assert np.mean(table["spikgpt_label"].to_numpy() == expected.labels) > 0.9


def test_the_size_of_written_files_is_limited() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        worker.limit_files(1000)
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == worker.ROOM + 1000 * worker.ROOM_PER_BYTE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_labels_are_kept_if_the_report_cannot_be_written(
    models: Models, few_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "This needs something."
        raise ConfigError(msg)

    monkeypatch.setattr(Annotation, "report", refuse)
    done, _ = run(job_of(tmp_path, link_file(few_file, tmp_path)), models)
    assert isinstance(done, Done), done
    summary = Summary.read(tmp_path)
    assert summary.files == [CELLS, TABLE]
    assert summary.notes[-1] == "There is no report. This needs something."

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from spikgpt_benchmark.methods.result import MethodResult
from spikgpt_benchmark.page import write_report
from spikgpt_benchmark.run import DONE, BenchmarkPlan, BenchmarkRun
from spikgpt_benchmark.task import LABEL, BenchmarkTask
from tests.benchmark.fake_methods import method, nearest

VOID = {"meta", "img"}


class OpenTags(HTMLParser):
    """Parser that records the open elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(task: BenchmarkTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = nearest(task.reference, task.reference.obs[LABEL].astype(str).to_numpy(), task.query)
    methods = [method("nearest", "nearest", rejects=True), method("<majority>", "majority"), method("gone", "fail")]
    runs = [
        BenchmarkRun(task.name, "nearest", 0, DONE, result=result),
        BenchmarkRun(task.name, "<majority>", 0, DONE, result=MethodResult(np.repeat("beta", task.query.n_obs))),
        BenchmarkRun(task.name, "gone", 0, "failed: RuntimeError: a < b & c"),
    ]
    # Random coordinates replace the UMAP, which takes long and has a test of its own.
    (folder / "positions").mkdir()
    np.save(folder / "positions" / f"{task.digest}.npy", np.random.default_rng(0).normal(size=(task.query.n_obs, 2)))
    rows = write_report([task], methods, runs, BenchmarkPlan(folder))
    assert [row.method for row in rows] == ["nearest", "<majority>", "gone"]
    return folder


def test_every_figure_is_a_file(folder: Path, task: BenchmarkTask) -> None:
    name = task.name.replace(" ", "_")
    kinds = [
        "bars",
        "time",
        *(f"{method_name}-{kind}" for method_name in ("nearest", "<majority>") for kind in ("umap", "confusion")),
    ]
    assert {path.name for path in (folder / "figures").iterdir()} == {f"{name}-{kind}.png" for kind in kinds}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "figures").iterdir())


def test_the_page_needs_no_other_file_and_escapes_texts(folder: Path, task: BenchmarkTask) -> None:
    text = (folder / "report.html").read_text()
    parser = OpenTags()
    parser.feed(text)
    assert parser.open == []
    assert len(re.findall(r'src="data:image/png;base64,', text)) == text.count("<img") == 6
    assert "http" not in text
    assert "<majority>" not in text
    assert "a &lt; b &amp; c" in text
    assert f"<h2>{task.name}</h2>" in text
    assert "**" not in text


def test_the_table_is_written_in_three_formats(folder: Path) -> None:
    assert "failed: RuntimeError: a < b & c" in (folder / "results.md").read_text()
    stored = json.loads((folder / "results.json").read_text())
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == [row["method"] for row in stored["rows"]]
    assert float(lines[0]["accuracy"]) == pytest.approx(stored["rows"][0]["means"]["accuracy"])

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cli.app import app
from spikgpt_benchmark import methods as registry
from spikgpt_benchmark import studies
from spikgpt_benchmark.studies.suite import StudySuite
from spikgpt_benchmark.task import BenchmarkTask
from tests.benchmark.fake_methods import method
from tests.cli.conftest import Run, assert_refused, written

ROOT = Path(__file__).parents[2]
# Program that runs the command with two fake methods; the second method waits until a file exists.
PROGRAM = """
import sys
from spikgpt_benchmark import methods as registry
from spikgpt.cli.main import main
from tests.benchmark.fake_methods import method
registry.METHODS = (method("nearest", "nearest"), method("slow", "wait for " + sys.argv.pop(1)))
main()
"""


@pytest.fixture
def files(cells: AnnData, few: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Write a reference without alpha cells, a query and its map coordinates; return the command line."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "benchmarks"))))
    kept = (cells.obs["cell_type"] != "alpha").to_numpy()
    reference = written(cells[kept, :2000].copy(), tmp_path / "reference.h5ad")
    query = written(few[:, :2000].copy(), tmp_path / "islets.h5ad")
    task = BenchmarkTask.from_files(reference, query, "cell_type")
    # Random coordinates replace the UMAP, which takes long and has a test of its own.
    (tmp_path / "out" / "positions").mkdir(parents=True)
    np.save(tmp_path / "out" / "positions" / f"{task.digest}.npy", np.random.default_rng(0).normal(size=(few.n_obs, 2)))
    flags = ["--reference", reference, "--query", query, "--label-key", "cell_type", "--threads", 1]
    return ["benchmark", *flags, "--out", tmp_path / "out"]


@pytest.mark.slow
def test_a_benchmark_of_real_methods_reports_figures_and_failures(
    run: Run, files: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = registry.METHODS[0]
    fakes = method("nearest", "nearest", rejects=True), method("unlucky", "fail")
    monkeypatch.setattr(registry, "METHODS", (own, *fakes))
    ran = run(*files)
    assert ran.code == 0
    assert "Note: islets, Unlucky: failed: RuntimeError: no luck today" in ran.err
    assert "no luck" not in ran.out
    rows = {row["method"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert set(rows) == {own.name, "nearest", "unlucky"}
    for name in (own.name, "nearest"):
        assert rows[name]["means"]["accuracy"] > 0.8
        assert f"{rows[name]['means']['accuracy']:.3f}" in ran.out
        assert rows[name]["means"]["peak_gigabytes"] > 0.05
    assert rows[own.name]["rival"] == "Nearest"
    assert rows[own.name]["versions"]["spikgpt"]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_a_killed_benchmark_resumes(files: list[object], tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = [sys.executable, "-c", PROGRAM, *map(str, (go, *files))]
    first, second = (tmp_path / "out" / "runs" / "islets" / f"{name}-0.json" for name in ("nearest", "slow"))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not second.exists()
    before = first.stat().st_mtime_ns
    go.touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "1 of 2 runs were finished before." in done.stderr
    assert first.stat().st_mtime_ns == before
    assert json.loads(second.read_text())["note"] == "done"


def test_mistakes_are_reported_in_one_line(run: Run, files: list[object], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert_refused(run(*files, "--methods", "spikgpt,celltipist"), "There is no method 'celltipist'; the methods are")
    assert_refused(run(*files, "--suite", "pbmc"), "--suite brings its own cells")
    assert_refused(run("benchmark", *out), "Name the cells: --reference, --query and --label-key")
    assert_refused(run("benchmark", *out, "--suite", "pbmc", "--data", tmp_path), "no pbmc_10x_3k.h5ad")
    assert_refused(run(*files, "--option", "markers"), "expected NAME=VALUE")
    assert_refused(run(*files, "--memory-limit", 0), "--memory-limit is 0.0; expected a number of above 0")
    assert_refused(run(*files[:-1], tmp_path / "islets.h5ad"), "islets.h5ad is a file; name a folder")
    assert_refused(run(*files, "--label-key", "celltype"), "Did you mean 'cell_type'?")
    (tmp_path / "paper" / "figures").mkdir(parents=True)
    assert_refused(run(*files[:-1], tmp_path / "paper"), "paper holds figures of something else, which would be")


def test_a_missing_method_package_is_named(run: Run, files: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("spikgpt_benchmark")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert_refused(run(*files), "pip install 'psutil>=5.9'")


def test_a_suite_finds_its_folder_in_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIKGPT_DATA", raising=False)
    flags = ("benchmark", "--suite", "xin", "--out", tmp_path / "out")
    assert_refused(run(*flags), "--suite needs --data")
    monkeypatch.setenv("SPIKGPT_DATA", str(tmp_path))
    assert_refused(run(*flags), f"{tmp_path} has no pancreas_baron_human.h5ad")


def test_a_study_runs_by_its_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = StudySuite("made up", lambda context: iter([{"task": "a", "accuracy": 0.5}]), ("task",))
    monkeypatch.setitem(studies.SUITES, "made-up", suite)
    ran = run("benchmark", "--suite", "made-up", "--out", tmp_path / "out")
    assert ran.code == 0
    assert "0.500" in ran.out
    assert json.loads((tmp_path / "out" / "made-up.json").read_text())["records"] == [{"task": "a", "accuracy": 0.5}]
    assert_refused(run("benchmark", "--suite", "blood", "--out", tmp_path / "out"), "There is no suite blood")
    both = ("--suite", "made-up", "--suite", "pbmc")
    assert_refused(run("benchmark", *both, "--out", tmp_path / "out"), "pbmc")


def test_a_missing_plug_in_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikgpt.cli.app.entry_points", lambda group: ())
    registered = [command for command in app.registered_commands if command.name != "benchmark"]
    monkeypatch.setattr(app, "registered_commands", registered)
    assert_refused(run("benchmark", "--help"), "pip install ./benchmarks")

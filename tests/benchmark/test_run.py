from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spikgpt_benchmark.methods import Method
from spikgpt_benchmark.process import ResourceLimits
from spikgpt_benchmark.run import DONE, BenchmarkPlan, BenchmarkRun, method_sources, run_methods, run_stem
from spikgpt_benchmark.task import BenchmarkTask
from tests.benchmark.fake_methods import method

NEAREST = method("nearest", "nearest")


def run_on_task(task: BenchmarkTask, methods: Sequence[Method], plan: BenchmarkPlan) -> list[BenchmarkRun]:
    return list(run_methods([task], methods, plan, lambda *_: None))


def test_methods_run_and_each_failure_is_a_row(task: BenchmarkTask, tmp_path: Path) -> None:
    methods = [
        NEAREST,
        method("unlucky", "fail", deterministic=False),
        method("shot", "kill"),
        method("missing", "nearest", packages=("numpy", "no-such-distribution")),
        method("without-r", "nearest", programs=("no-such-program",)),
        method("markers", "nearest", options={"how": "nearest", "markers": ""}),
    ]
    runs = run_on_task(task, methods, BenchmarkPlan(tmp_path, seeds=2))
    assert [(run.method, run.note) for run in runs] == [
        ("nearest", DONE),
        ("unlucky", "failed: RuntimeError: no luck today"),
        ("shot", "failed: ended by SIGKILL; the machine may have had too little memory"),
        ("missing", "not installed: pip install no-such-distribution"),
        ("without-r", "not installed: there is no no-such-program on the path"),
        ("markers", "not run: it needs --option markers=..."),
    ]
    assert runs[0].result is not None
    assert runs[0].seconds > 0
    assert runs[0].peak_bytes > 1e7
    log = run_stem(tmp_path, task.name, "unlucky", 0).with_suffix(".log").read_text()
    assert "Traceback" in log
    assert "no luck today" in log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_method_that_eats_memory_is_stopped(task: BenchmarkTask, tmp_path: Path) -> None:
    (run,) = run_on_task(task, [method("eater", "eat")], BenchmarkPlan(tmp_path, limits=ResourceLimits(gigabytes=0.4)))
    assert run.note == "stopped: memory above 0.4 GB"
    assert 0.4e9 < run.peak_bytes < 1e9


def test_finished_runs_are_kept_until_settings_change(task: BenchmarkTask, tmp_path: Path) -> None:
    plan = BenchmarkPlan(tmp_path)
    (first,) = run_on_task(task, [NEAREST], plan)
    (again,) = run_on_task(task, [NEAREST], plan)
    assert (first.kept, again.kept) == (False, True)
    assert again.result is not None
    assert first.result is not None
    assert again.result.labels.tolist() == first.result.labels.tolist()
    path = run_stem(tmp_path, task.name, "nearest", 0).with_suffix(".json")
    assert json.loads(path.read_text())["note"] == DONE
    # A run is repeated if the settings change, or if its stored file is truncated.
    changed = replace(plan, threads=2)
    assert not run_on_task(task, [NEAREST], changed)[0].kept
    path.write_text(path.read_text()[:50])
    assert not run_on_task(task, [NEAREST], changed)[0].kept


@pytest.mark.parametrize(("seconds", "kept"), [(0.5, True), (0.6, False)])
def test_a_run_that_was_stopped_is_tried_again_with_other_limits(
    task: BenchmarkTask, tmp_path: Path, seconds: float, kept: bool
) -> None:
    sleeper = method("sleeper", "sleep", deterministic=False)
    runs = run_on_task(task, [sleeper], BenchmarkPlan(tmp_path, seeds=3, limits=ResourceLimits(seconds=0.5)))
    assert [run.note for run in runs] == ["stopped: longer than 0.5 s"]
    (again,) = run_on_task(task, [sleeper], BenchmarkPlan(tmp_path, limits=ResourceLimits(seconds=seconds)))
    assert again.kept == kept


def test_the_sources_of_a_method_include_its_imported_modules() -> None:
    own = "spikgpt_benchmark.methods."
    assert set(method_sources("tests.benchmark.fake_methods")) == {"tests.benchmark.fake_methods", f"{own}result"}
    assert set(method_sources(f"{own}spikgpt")) == {f"{own}spikgpt", f"{own}result"}

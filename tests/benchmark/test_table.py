from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikgpt_benchmark.measures import mcnemar_p
from spikgpt_benchmark.methods.result import MethodResult
from spikgpt_benchmark.run import DONE, BenchmarkPlan, BenchmarkRun
from spikgpt_benchmark.table import (
    FIRST,
    NEAR,
    ResultRow,
    as_frame,
    as_json,
    as_markdown,
    build_rows,
    describe_tasks,
    table_cells,
)
from spikgpt_benchmark.task import BenchmarkTask
from tests.benchmark.fake_methods import method

METHODS = [
    replace(method("good", "nearest"), licence="MIT", citation="Somebody 2020"),
    replace(method("near", "nearest"), module="another"),
    replace(method("bad", "majority"), module="a third"),
    method("gone", "fail"),
]


def result_with_errors(task: BenchmarkTask, errors: int) -> MethodResult:
    """Return the true labels, but label ``errors`` cells and all cells of unseen types as beta."""
    labels = np.where(task.known, task.truth, "beta")
    rows = np.flatnonzero(task.known & (labels != "beta"))[:errors]
    labels[rows] = "beta"
    return MethodResult(labels, confidence=task.known + 0.0, versions={"numpy": "2"}, train_seconds=1.0)


@pytest.fixture(scope="module")
def runs(task: BenchmarkTask) -> list[BenchmarkRun]:
    answers = {
        ("good", 0): replace(result_with_errors(task, 2), assigned=task.known),
        ("good", 1): replace(result_with_errors(task, 4), assigned=task.known),
        ("near", 0): result_with_errors(task, 4),
        ("bad", 0): result_with_errors(task, 25),
    }
    runs = [BenchmarkRun(task.name, name, seed, DONE, 2.0, 10**9, result) for (name, seed), result in answers.items()]
    return [*runs, BenchmarkRun(task.name, "gone", 0, "failed: RuntimeError: no luck")]


def by_name(rows: Sequence[ResultRow]) -> dict[str, ResultRow]:
    return {row.method: row for row in rows}


def test_figures_are_means_over_seeds_and_rows_go_by_accuracy(task: BenchmarkTask, runs: list[BenchmarkRun]) -> None:
    rows, known = build_rows(task, METHODS, runs), int(task.known.sum())
    assert [row.method for row in rows] == ["good", "near", "bad", "gone"]
    good = rows[0]
    assert good.seeds == 2
    assert good.means["accuracy"] == pytest.approx(1 - 3 / known)
    assert good.spreads["accuracy"] == pytest.approx(1 / known)
    assert good.means["peak_gigabytes"] == 1
    assert good.per_label["beta"] > 0.9
    assert (rows[-1].note, rows[-1].means) == ("failed: RuntimeError: no luck", {})


def test_the_first_method_and_methods_near_it_are_marked(task: BenchmarkTask, runs: list[BenchmarkRun]) -> None:
    rows = by_name(build_rows(task, METHODS, runs))
    assert [rows[name].ranks["accuracy"] for name in ("good", "near", "bad")] == [FIRST, NEAR, ""]
    # A method that cannot reject cells is not ranked by the open-set accuracy.
    assert rows["good"].ranks["open_set_accuracy"] == FIRST
    assert "open_set_accuracy" not in rows["near"].ranks
    assert rows["bad"].ranks["auroc_unseen"] == FIRST


def test_the_best_other_method_has_another_module(task: BenchmarkTask, runs: list[BenchmarkRun]) -> None:
    twin = method("twin", "nearest")  # in the same module as "good"
    more = [*runs, BenchmarkRun(task.name, "twin", 0, DONE, result=result_with_errors(task, 0))]
    rows = by_name(build_rows(task, [*METHODS, twin], more))
    assert (rows["good"].rival, rows["near"].rival, rows["twin"].rival) == ("Near", "Twin", "Near")
    right = {errors: (result_with_errors(task, errors).labels == task.truth)[task.known] for errors in (2, 4)}
    assert rows["good"].p == pytest.approx(mcnemar_p(right[2], right[4]))


def test_a_failed_seed_is_noted_beside_the_figures_of_the_other_seeds(
    task: BenchmarkTask, runs: list[BenchmarkRun]
) -> None:
    more = [*runs, BenchmarkRun(task.name, "good", 2, "stopped: longer than 5 s")]
    rows = by_name(build_rows(task, METHODS, more))
    assert rows["good"].seeds == 2
    assert "stopped: longer than 5 s" in rows["good"].note


def test_the_markdown_table_has_all_figures_and_notes(
    task: BenchmarkTask, runs: list[BenchmarkRun], tmp_path: Path
) -> None:
    rows = build_rows(task, METHODS, runs)
    text = as_markdown(rows, [replace(task, paper="accuracy 0.9")], BenchmarkPlan(tmp_path, seeds=2))
    lines = text.splitlines()
    first = lines[: lines.index("## Methods")]
    good, near, gone = (
        next(line for line in first if line.startswith(f"| {name} ")) for name in ("Good", "Near", "Gone")
    )
    assert f"**{rows[0].means['accuracy']:.3f} ± {rows[0].spreads['accuracy']:.3f}**" in good
    assert f"{rows[1].means['accuracy']:.3f} ≈" in near
    assert f"({rows[1].means['open_set_accuracy']:.3f})" in near
    assert "failed: RuntimeError: no luck" in gone
    assert len({line.count("|") for line in first if line.startswith("|")}) == 1
    assert "| Good | numpy 2 | MIT | Somebody 2020 |" in text
    assert "| SpikGPT, as the paper reports it | accuracy 0.9 |" in text
    assert "calibration" not in lines[4]
    assert "GB of memory" in text
    assert "seeds: 2" in text


def test_without_unseen_cells_their_columns_are_left_out(task: BenchmarkTask) -> None:
    known = task.with_known_types()
    rows = build_rows(
        known, METHODS[:1], [BenchmarkRun(known.name, "good", 0, DONE, result=result_with_errors(known, 1))]
    )
    assert not {"AUROC unseen", "unseen rejected"} & set(table_cells(rows)[0])


def test_json_and_csv_hold_every_row(task: BenchmarkTask, runs: list[BenchmarkRun], tmp_path: Path) -> None:
    rows = build_rows(task, METHODS, runs)
    stored = json.loads(json.dumps(as_json(rows, [task], BenchmarkPlan(tmp_path))))
    assert [row["method"] for row in stored["rows"]] == [row.method for row in rows]
    assert stored["tasks"] == describe_tasks([task])
    assert stored["tasks"][0]["known_cells"] == task.known.sum()
    frame = as_frame(rows).set_index("method")
    assert frame.loc["good", "accuracy_sd"] == pytest.approx(rows[0].spreads["accuracy"])
    assert frame.loc["good", "f1: beta"] == pytest.approx(rows[0].per_label["beta"])
    assert frame.loc["gone", "note"] == "failed: RuntimeError: no luck"

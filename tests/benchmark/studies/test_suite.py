from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite, run_suite, summarise

RECORDS: list[Record] = [
    {"task": "a", "genes": "all", "accuracy": 0.9, "known Unknown": 0.1, "kind": "good"},
    {"task": "a", "genes": "all", "accuracy": 0.7, "known Unknown": 0.3, "kind": "bad"},
    {"task": "b", "genes": "all", "accuracy": 0.5, "known Unknown": None, "kind": "bad"},
]


def records(context: StudyContext) -> Iterator[Record]:
    """Stand in for a study: yield the records of the tasks that ``context`` selects."""
    yield from (record for record in RECORDS if context.selects(record["task"]))


SUITE = StudySuite("made up", records, ("task", "genes"), ("genes",), lambda record: record["kind"] == "bad")


def test_the_summary_has_mean_mean_of_tasks_and_worst_value() -> None:
    lines = {line["statistic"]: line for line in summarise(RECORDS, SUITE)}
    assert lines["mean"]["accuracy"] == pytest.approx(0.7)
    assert lines["mean of tasks"]["accuracy"] == pytest.approx(0.65)
    assert lines["worst"]["accuracy"] == 0.5
    # A larger share of Unknown cells is worse. Missing figures are left out of the means.
    assert lines["worst"]["known Unknown"] == 0.3
    assert lines["mean"]["known Unknown"] == pytest.approx(0.2)
    assert "kind" not in lines["mean"]


def test_a_suite_writes_all_records_and_prints_the_notable_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_suite("made-up", SUITE, StudyContext(tmp_path, tmp_path), tmp_path)
    stored = json.loads((tmp_path / "made-up.json").read_text())
    assert stored["records"] == RECORDS
    assert len(stored["summary"]) == 4
    assert len((tmp_path / "made-up.csv").read_text().splitlines()) == 4
    printed = capsys.readouterr().out
    assert "bad" in printed
    assert "good" not in printed


def test_a_task_that_a_suite_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"made-up.* c"):
        run_suite("made-up", SUITE, StudyContext(tmp_path, tmp_path, ("c",)), tmp_path)

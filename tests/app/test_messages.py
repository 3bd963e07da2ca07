"""The summary of a run stays the same when it is written to a file and read back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from spikgpt.app.folders import safe_name
from spikgpt.app.messages import CELLS, REPORT, RESULTS, SUMMARY, TABLE, PageLabel, Summary


def summary(*labels: str, tone: str = "good", files: tuple[str, ...] = (), query: str = "kang.h5ad") -> Summary:
    """Return a summary of made-up labels, ten cells each."""
    return Summary(
        cells=10 * len(labels),
        reference="pancreas",
        query=query,
        verdict="Like the reference",
        tone=tone,
        explanation="An explanation.",
        evidence="Made up.",
        choice=[],
        sentences=["One sentence."],
        notes=[],
        rows=[PageLabel(label=label, cells=10, confidence=0.5, color="#112233") for label in labels],
        clusters=[],
        files=list(files),
    )


def test_a_summary_is_read_from_the_folder_of_its_job(tmp_path: Path) -> None:
    (tmp_path / RESULTS).mkdir()
    written = summary("alpha", "beta")
    (tmp_path / RESULTS / SUMMARY).write_bytes(msgspec.json.encode(written))
    assert Summary.read(tmp_path) == written


def test_no_upload_has_the_name_of_the_results() -> None:
    assert safe_name(RESULTS) != RESULTS


@pytest.mark.parametrize(
    ("query", "file", "name"),
    [
        ("kang.h5ad", TABLE, "kang-labels.csv"),
        ("Kang 2018.csv.GZ", CELLS, "Kang 2018-labelled.h5ad"),
        ("filtered.matrix.mtx.gz", REPORT, "filtered.matrix-report.html"),
        ('../"><b>\u202ex\r\n.h5ad', TABLE, "b__x-labels.csv"),
        (".h5ad", TABLE, "query-labels.csv"),
    ],
)
def test_downloads_are_named_by_the_query(query: str, file: str, name: str) -> None:
    assert summary("alpha", query=query).saved_as(file) == name


def test_long_names_are_shortened() -> None:
    assert len(summary("alpha", query=f"{'long' * 100}.h5ad").saved_as(TABLE)) < 120

"""The summary of a run is read as it was written."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spikgpt.app.folders import safe_name
from spikgpt.app.messages import RESULTS, SUMMARY, PageLabel, Summary


def summary(*labels: str, usable: bool | None = True, files: tuple[str, ...] = ()) -> Summary:
    """Return a summary of made-up labels, ten cells each."""
    return Summary(
        cells=10 * len(labels),
        reference="pancreas",
        usable=usable,
        verdict="like the reference",
        evidence="made up",
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

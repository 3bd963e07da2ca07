"""Answers hold the labels, and headers that any proxy passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikgpt import Annotation
from spikgpt.service.answers import LONGEST_NOTES, answer_headers, write_answer
from spikgpt.service.requests import JSON


def test_json_is_written_in_chunks(expected: Annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_answer(expected, JSON, tmp_path)
    whole = json.loads(path.read_bytes())
    assert len(whole["cells"]) == 120
    monkeypatch.setattr("spikgpt.service.answers.ROWS", 50)
    assert json.loads(write_answer(expected, JSON, tmp_path).read_bytes()) == whole


def test_scores_that_are_missing_are_null(expected: Annotation, tmp_path: Path) -> None:
    scores = np.full(120, np.nan, dtype=np.float32)
    cells = json.loads(write_answer(replace(expected, ood_score=scores, typicality=None), JSON, tmp_path).read_bytes())
    assert {cell["ood_score"] for cell in cells["cells"]} == {cell["typicality"] for cell in cells["cells"]} == {None}


def test_headers_are_short_and_plain(expected: Annotation) -> None:
    notes = tuple(f"note {number} \u00e9\n" + "x" * 900 for number in range(9))
    many = replace(
        expected, reference_name="r\u00e9f\r\nerence", input_report=replace(expected.input_report, notes=notes)
    )
    headers = answer_headers(many)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert len(headers["SpikGPT-Notes"]) <= LONGEST_NOTES
    assert json.loads(headers["SpikGPT-Notes"])[0] == notes[0]
    assert json.loads(answer_headers(expected)["SpikGPT-Notes"]) == expected.notes()

"""Label maps are checked when they are made and when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spikgpt.errors import DamagedReference, LabelsError
from spikgpt.reference.json_files import converted, dumped, parsed
from spikgpt.scoring.label_map import LabelMap, LabelRow
from tests.conftest import DATA
from tests.scoring.test_thresholds import SHIPPED

ROWS: list[dict[str, Any]] = [
    {"index": 0, "name": "alpha", "cell_ontology_id": "CL:0000171"},
    {"index": 1, "name": "beta", "cell_ontology_id": None},
]


def read(rows: Any) -> LabelMap:
    return LabelMap.from_rows(converted(rows, "labels.json", list[LabelRow]))


def test_a_label_map_survives_a_round_trip() -> None:
    labels = LabelMap(("alpha", "beta"), ("CL:0000171", None))
    assert labels.to_list() == ROWS
    assert read(ROWS) == labels


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("a", "b"), (None,), "Found 2 label names and 1 Cell Ontology id"),
        (("a", "a"), (None, None), "Label names must differ; a occurs more than once"),
        (("a", "b\x1b"), (None, None), "'b.x1b' is empty or has control characters"),
        (("a", ""), (None, None), "is empty or has control characters"),
        (("a", "Unknown"), (None, None), "'Unknown' is the name for rejected cells"),
        (("a", " b"), (None, None), "' b' starts or ends with a space"),
        (("a", "b" * 201), (None, None), "'b{200}' has more than 200 characters"),
        (("a", "e\u0301"), (None, None), "is not in Unicode's composed form"),
        (("a", "\u202eb"), (None, None), "is empty or has control characters"),
        (("T cell", "T Cell"), (None, None), "'T cell' and 'T Cell' differ only in case or width"),
        (("beta", "\uff42eta"), (None, None), "differ only in case or width"),
        (("a", "unknown"), (None, None), "'unknown' and 'Unknown' differ only in case"),
        (("a", "b"), (None, "CL\n"), "is no Cell Ontology id, such as CL:0000169"),
    ],
)
def test_invalid_labels_are_refused(names: tuple[str, ...], ids: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(LabelsError, match=message):
        LabelMap(names, ids)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[::-1], "Row 0 of labels.json has the index 1"),
        (ROWS[:1] + [ROWS[1] | {"name": 3}], r"labels.json .* Expected `str`, got `int`, in \[1\].name: found 3"),
        (ROWS[:1] + [{"index": 1, "name": "beta"}], "labels.json .* missing required field `cell_ontology_id`"),
        (ROWS[:1] + [ROWS[1] | {"colour": "red"}], "labels.json .* unknown field `colour`"),
        (ROWS[:1] + [ROWS[1] | {"name": "alpha"}], "labels.json .* alpha occurs more than once"),
        ("alpha", "labels.json .* Expected `array`"),
        ([1], "labels.json .* Expected `object`"),
    ],
    ids=["order", "number", "field", "another field", "twice", "text", "no rows"],
)
def test_damaged_rows_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(DamagedReference, match=message):
        read(rows)


@pytest.mark.parametrize(
    "folder", [SHIPPED, DATA / "format_1" / "counts", DATA / "format_2" / "embedded"], ids=lambda folder: folder.name
)
def test_stored_labels_survive_a_round_trip_byte_for_byte(folder: Path) -> None:
    content = (folder / "labels.json").read_bytes()
    assert dumped(read(parsed(content, "labels.json")).to_list()) == content


def test_many_labels_take_little_time() -> None:
    names = tuple(f"label {index}" for index in range(50_000))
    with pytest.raises(LabelsError, match="label 7 occurs more than once"):
        LabelMap((*names, "label 7"), (None,) * 50_001)
    with pytest.raises(LabelsError, match="label 0, .* occurs more than once") as refused:
        LabelMap(names * 2, (None,) * 100_000)
    assert len(str(refused.value)) < 200
    labels = LabelMap(names, (None,) * 50_000)
    assert read(labels.to_list()) == labels

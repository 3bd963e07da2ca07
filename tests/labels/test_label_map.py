"""Label maps are checked when they are made and when they are read."""

from __future__ import annotations

from typing import Any

import pytest

from spikgpt.errors import DamagedReference, LabelsError
from spikgpt.labels.label_map import LabelMap

ROWS: list[dict[str, Any]] = [
    {"index": 0, "name": "alpha", "cell_ontology_id": "CL:0000171"},
    {"index": 1, "name": "beta", "cell_ontology_id": None},
]


def test_rows_come_back_as_they_went() -> None:
    labels = LabelMap(("alpha", "beta"), ("CL:0000171", None))
    assert labels.to_list() == ROWS
    assert LabelMap.from_list(ROWS) == labels


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("a", "b"), (None,), "There are 2 label names and 1 Cell Ontology ids"),
        (("a", "a"), (None, None), "Label names must differ; a occurs more than once"),
        (("a", "b\x1b"), (None, None), "Label names are printed, so 'b.x1b' cannot be one"),
        (("a", ""), (None, None), "it is empty or has control characters"),
        (("a", "Unknown"), (None, None), "'Unknown' is what rejected cells are called"),
        (("a", "b"), (None, "CL\n"), "is no Cell Ontology id, such as CL:0000169"),
    ],
)
def test_what_is_no_label_map_is_refused(names: tuple[str, ...], ids: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(LabelsError, match=message):
        LabelMap(names, ids)


@pytest.mark.parametrize(
    "rows",
    [ROWS[::-1], ROWS[:1] + [ROWS[1] | {"name": 3}], ROWS[:1] + [{"index": 1, "name": "beta"}], "alpha", [1]],
    ids=["order", "number", "field", "text", "no rows"],
)
def test_rows_that_are_damaged_are_refused(rows: Any) -> None:
    with pytest.raises(DamagedReference, match=r"labels\.json"):
        LabelMap.from_list(rows)

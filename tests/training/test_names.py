"""Query labels under other names are suggested as an option, and never matched to another type."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from spikgpt.errors import LabelsError
from spikgpt.scoring.label_map import LabelMap
from spikgpt.training.names import match_names

# Labels of a reference; most have an id.
BLOOD = {
    "B cell": "CL:0000236",
    "CD14+ Monocytes": "CL:0001054",
    "CD4 T": "CL:0000624",
    "CD8 T": "CL:0000625",
    "NK": None,
    "alpha": "CL:0000171",
    "beta": "CL:0000169",
    "activated_stellate": None,
    "Dendritic Cells": "CL:0000451",
    "fibroblast": None,
}
REFERENCE = LabelMap(tuple(BLOOD), tuple(BLOOD.values()))


def suggested(name: str, term: str | None = None) -> str | None:
    """Return the suggested label for a name, or None if there is no suggestion."""
    ids = {} if term is None else {name: term}
    notes = match_names([name, "NK"], REFERENCE, {}, ids).notes
    lines = [shlex.split(match[1]) for note in notes if (match := re.search(r"add: (--label-map .*)$", note))]
    if not lines:
        assert any(f"no label like {name}" in note for note in notes)
        return None
    ((option, content),) = lines
    assert option == "--label-map"
    (pair,) = json.loads(content).items()
    assert pair[0] == name
    return str(pair[1])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("B", "B cell"),
        ("B cells", "B cell"),
        ("b_cell", "B cell"),
        ("B-cells", "B cell"),
        ("CD14 Mono", "CD14+ Monocytes"),
        ("CD14+ monocyte", "CD14+ Monocytes"),
        ("T CD4", "CD4 T"),
        ("CD4+ T cells", "CD4 T"),
        ("alpha cell", "alpha"),
        ("Alpha", "alpha"),
        ("α cells", "alpha"),
        ("pancreatic A cell", "alpha"),
        ("type B pancreatic cell", "beta"),
        ("activated stellate cell", "activated_stellate"),
        ("Activated Stelate", "activated_stellate"),
        ("dendritic_cell", "Dendritic Cells"),
        ("Fibro", "fibroblast"),
        ("naive B cell", "B cell"),
    ],
)
def test_other_names_of_a_type_are_suggested(name: str, label: str) -> None:
    assert suggested(name) == label


@pytest.mark.parametrize(
    "name", ["CD16 Mono", "CD4- T", "CD3 T", "alphabet", "T", "beta's friend", "hepatocyte", "stellate", "x"]
)
def test_other_types_are_not_suggested(name: str) -> None:
    assert suggested(name) is None


def test_a_label_is_suggested_for_a_more_specific_term() -> None:
    assert suggested("some name", "CL:0000788") == "B cell"


def test_the_suggested_option_keeps_the_given_map_and_quotes_for_a_shell() -> None:
    (note,) = match_names(["NK'", "B", "it's"], REFERENCE, {"it's": "CD8 T"}, {}).notes
    option, content = shlex.split(note.split(" add: ")[1])
    assert option == "--label-map"
    assert json.loads(content) == {"it's": "CD8 T", "B": "B cell", "NK'": "NK"}


def test_a_query_without_matching_labels_is_refused_with_a_suggestion() -> None:
    with pytest.raises(LabelsError, match=r"None of the query's labels \(B\) is .*--label-map '\{\"B\": \"B cell\"\}'"):
        match_names(["B"], REFERENCE, {}, {})
    with pytest.raises(LabelsError, match=r"labels \(x0, .* and 12 more\) is a label of .*Choose another label column"):
        match_names([f"x{n}" for n in range(20)], REFERENCE, {}, {})


def test_mistakes_in_a_label_map_are_named() -> None:
    with pytest.raises(LabelsError, match="names 'b cell', which the reference does not have; near names are B cell"):
        match_names(["B"], REFERENCE, {"B": "b cell"}, {})
    with pytest.raises(LabelsError, match="names 'Bees', .* exchange both sides"):
        match_names(["Bees", "NK"], REFERENCE, {"B cell": "Bees"}, {})
    note, _ = match_names(["Bees", "NK"], REFERENCE, {"Bee": "B cell"}, {}).notes
    assert note == "label_map names 'Bee', which no cell has; near names are Bees."


def test_many_labels_are_matched_without_comparing_all_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr("spikgpt.training.names._similar", lambda *pair: compared.extend(pair))
    names = [f"Cell type {n}" for n in range(1000)]
    many = LabelMap(tuple(name.lower() for name in names), (None,) * 1000)
    with pytest.raises(LabelsError, match="992 more"):
        match_names(names, many, {}, {})
    assert not compared

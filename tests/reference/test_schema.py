"""What the JSON files of a reference may hold, and what they may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spikgpt.errors import DamagedReference
from spikgpt.files import converted, dumped
from spikgpt.reference.registry import shipped_references
from spikgpt.reference.schema import Agreement, Config, Header, Metrics, Provenance, require

PANCREAS = shipped_references()["pancreas"]
METRICS: dict[str, Any] = json.loads((PANCREAS / "metrics.json").read_text())
CONFIG: dict[str, Any] = json.loads((PANCREAS / "config.json").read_text())


def test_figures_come_back_in_the_order_they_were_written() -> None:
    held_out = converted(METRICS["held_out"], "held_out", Agreement)
    assert dumped(held_out) == dumped(METRICS["held_out"]) == dumped(held_out.to_dict())


@pytest.mark.parametrize(
    ("values", "kind"),
    [(METRICS, Metrics), (METRICS["held_out"], Agreement), (CONFIG["provenance"], Provenance), (CONFIG, Header)],
)
def test_what_another_version_adds_is_let_be(values: dict[str, Any], kind: type) -> None:
    assert converted(values | {"added": {"later": [1]}}, "x.json", kind) == converted(values, "x.json", kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "a\nb"}, r"source is 'a\\nb'; expected a line of text without control characters"),
        ({"datasets": ["GSE1", "\x1b"]}, r"datasets is '\\x1b'; expected a line of text"),
        ({"datasets": "GSE1"}, "Expected `array`, got `str`, in datasets"),
        ({"licence": None}, "Expected `str`, got `null`, in licence"),
        ({"recipe": {"name": "\r"}}, r"name is '\\r'; expected a line of text without control characters, in recipe"),
        ({"paper": {"reference": "a", "query": "b"}}, "missing required field `figures`, in paper"),
        ({"paper": {"reference": "a", "query": "b", "figures": "c", "link": "d"}}, "unknown field `link`, in paper"),
    ],
)
def test_provenance_that_cards_cannot_show_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedReference, match=message):
        converted(CONFIG["provenance"] | change, "x.json", Provenance)


def test_a_description_has_lines_and_a_config_has_what_is_known() -> None:
    provenance = converted(CONFIG["provenance"] | {"description": "two\nlines"}, "x.json", Provenance)
    assert provenance.description == "two\nlines"
    with pytest.raises(DamagedReference, match="unknown field `added`"):
        converted(CONFIG | {"added": 1}, "x.json", Config)


def test_what_does_not_hold_is_refused() -> None:
    require(True, "All is well.")
    with pytest.raises(DamagedReference, match=r"^It is cracked\. Get the reference again, or another one\.$"):
        require(False, "It is cracked.")

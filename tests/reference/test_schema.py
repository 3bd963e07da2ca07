"""Schemas for the JSON files of a reference."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from spikgpt.errors import DamagedReference
from spikgpt.reference.json_files import converted, dumped
from spikgpt.reference.registry import shipped_references
from spikgpt.reference.schema import (
    Agreement,
    Config,
    CrossValidation,
    GroupScore,
    Header,
    MetricsRecord,
    Provenance,
    require,
)
from spikgpt.training.metrics import measure, pooled

PANCREAS = shipped_references()["pancreas"]
METRICS: dict[str, Any] = json.loads((PANCREAS / "metrics.json").read_text())
CONFIG: dict[str, Any] = json.loads((PANCREAS / "config.json").read_text())


def test_figures_keep_their_order() -> None:
    held_out = converted(METRICS["held_out"], "held_out", Agreement)
    assert dumped(held_out) == dumped(METRICS["held_out"]) == dumped(held_out.to_dict())


@pytest.mark.parametrize(
    ("values", "kind"),
    [(METRICS, MetricsRecord), (METRICS["held_out"], Agreement), (CONFIG["provenance"], Provenance), (CONFIG, Header)],
)
def test_fields_of_another_version_are_ignored(values: dict[str, Any], kind: type) -> None:
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


def test_a_description_may_have_lines_and_a_config_has_known_fields() -> None:
    provenance = converted(CONFIG["provenance"] | {"description": "two\nlines"}, "x.json", Provenance)
    assert provenance.description == "two\nlines"
    with pytest.raises(DamagedReference, match="unknown field `added`"):
        converted(CONFIG | {"added": 1}, "x.json", Config)


def test_a_failed_requirement_is_refused() -> None:
    require(True, "All is well.")
    with pytest.raises(DamagedReference, match=r"^It is cracked\. Get the reference again, or another one\.$"):
        require(False, "It is cracked.")


def validation() -> dict[str, Any]:
    """Return made-up cross-validation figures of two donors."""
    parts = measure(["alpha"] * 3 + ["beta"] * 2, ["alpha"] * 4 + ["beta"]), measure(["alpha"] * 4, ["alpha"] * 4)
    rows = [GroupScore(f"d{n}", part.cells, part.accuracy, part.macro_f1) for n, part in enumerate(parts)]
    summary: dict[str, Any] = msgspec.to_builtins(CrossValidation.summarise("donor", rows, pooled(parts)))
    return summary


def test_a_cross_validation_survives_a_round_trip() -> None:
    values = validation()
    assert values["accuracy"] == {"mean": pytest.approx(0.9), "std": pytest.approx(0.1 * 2**0.5)}
    metrics = converted(METRICS | {"cross_validation": values}, "metrics.json", MetricsRecord)
    assert msgspec.to_builtins(metrics.cross_validation) == values
    assert [row.group for row in metrics.cross_validation.groups] == ["d0", "d1"]  # type: ignore[union-attr]
    group = GroupScore("d0", 1, 1.0, 1.0)
    assert CrossValidation.summarise("donor", [group], measure(["a"], ["a"])).accuracy.std == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("groups", 0, "accuracy"), 0.9, "the accuracy of groups of the cross-validation differ"),
        (("groups", 0, "accuracy"), 1.5, "<= 1.0"),
        (("groups", 0, "macro_f1"), 0.9, "macro_f1.mean of the cross-validation differ"),
        (("groups", 0, "cells"), 6, "the accuracy of groups"),
        (("groups", 1, "cells"), 3, "the accuracy of groups"),
        (("groups", 1, "group"), "d0", "the names of groups"),
        (("groups", 1, "group"), "d\n", "without control characters"),
        (("groups",), [], "length >= 1"),
        (("accuracy", "mean"), 0.95, "accuracy.mean"),
        (("accuracy", "std"), 0.0, "accuracy.std"),
        (("macro_f1", "std"), 0.0, "macro_f1.std"),
        (("pooled", "accuracy"), 0.95, "the accuracy of pooled"),
        (("pooled", "cells"), 90, "of the cross-validation differ"),
        (("pooled", "confusion", "counts"), [[7, 0], [0, 2]], "of the cross-validation differ"),
        (("pooled", "per_label", 1, "cells"), 3, "the cells of pooled"),
        (("pooled", "per_label", 1, "label"), "gamma", "the cells of pooled"),
    ],
)
def test_an_inconsistent_cross_validation_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    values = validation()
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(DamagedReference, match=message):
        converted(METRICS | {"cross_validation": values}, "metrics.json", MetricsRecord)


def test_a_cross_validation_has_no_more_cells_of_a_label_than_the_reference() -> None:
    metrics = METRICS | {"cross_validation": validation()}
    metrics["cells_per_label"] = METRICS["cells_per_label"] | {"alpha": 6}
    with pytest.raises(DamagedReference, match="cross_validation has 7 cells of 'alpha'; expected at most 6"):
        converted(metrics, "metrics.json", MetricsRecord)

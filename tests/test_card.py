from __future__ import annotations

from typing import Any

import pytest

from spikgpt.card import card

LABELS = [
    {"index": 0, "name": "alpha", "cell_ontology_id": "CL:0000171"},
    {"index": 1, "name": "rare", "cell_ontology_id": None},
]
THRESHOLDS = {"threshold": 0.61234, "unknown_rate": 0.05, "calibration_cells": 321, "paper_threshold": 0.95}
METRICS = {
    "cells": 77,
    "cells_per_label": {"alpha": 70, "rare": 7},
    "held_out_by": "donor human3",
    "paper_threshold_rejects": 0.432,
    "held_out": {
        "cells": 30,
        "accuracy": 0.9876,
        "macro_f1": 0.8765,
        "per_label": [{"label": "alpha", "cells": 30, "recall": 0.9, "f1": 0.8}],
    },
}
PROVENANCE = {"recipe": {"name": "default"}, "seed": 5, "source": "GSE84133", "licence": "MIT"}


def text(provenance: dict[str, Any] | None = None) -> str:
    return card("islets", LABELS, THRESHOLDS, METRICS, provenance or PROVENANCE)


@pytest.mark.parametrize(
    "stated",
    [
        "# islets\n",
        "license: mit\n",
        "2 labels, trained on 77 cells (recipe `default`, seed 5).",
        "Origin of the cells: GSE84133\n",
        "Held out: donor human3. Over 30 cells, accuracy is 0.988 and\nmacro-F1 0.876.",
        "| alpha | CL:0000171 | 70 | 30 | 0.900 | 0.800 |\n",
        "| rare | - | 7 | 0 | not measured | not measured |\n",
        "below 0.6123 is Unknown. That rejects at most 5% of known\ncells like the 321 held-out ones.",
        "0.95, rejected 43.2% of them.",
        'SpikGPT.from_pretrained("islets")',
        "--model islets",
    ],
)
def test_every_figure_is_stated(stated: str) -> None:
    assert stated in text()


def test_what_is_not_known_is_not_made_up() -> None:
    unstated = text({"recipe": {"name": "paper"}, "seed": 0})
    assert "Origin of the cells: not stated\n" in unstated
    assert "license: other\n" in unstated


def test_the_front_matter_is_closed() -> None:
    assert text().startswith("---\nlicense: ")
    assert text().splitlines().count("---") == 2

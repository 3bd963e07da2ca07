"""Dot plot of the genes behind labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from spikgpt import pl
from spikgpt.errors import ConfigError
from spikgpt.explain.explanation import ExplainedGroup, Explanation
from spikgpt.explain.labels import GeneEvidence, LabelGenes
from tests.pl.simulated import HOSTILE


def evidence(
    gene: str, attribution: float | None, expressed: float, role: Any, *, absent: bool = False
) -> GeneEvidence:
    measured = None if attribution is None else expressed
    return GeneEvidence(gene, attribution, measured, measured, 1.0, 0.5, role, absent)


def explained(label: str, *genes: GeneEvidence) -> LabelGenes:
    return LabelGenes(
        label=label,
        cells=10,
        explained=10,
        runner_up="other",
        genes=genes,
        log_odds=3.0,
        baseline=-1.0,
        agreement=1.0,
        attributions=np.zeros(4),
    )


LABELS = [
    explained(
        "beta",
        evidence("INS", 2.0, 1.0, "supporting"),
        evidence("GCG", 1.0, 0.1, "supporting", absent=True),
        evidence("SST", -0.5, 0.2, "conflicting"),
        evidence("MAFA", None, 0.0, "missing"),
    ),
    explained("alpha", evidence("GCG", 4.0, 0.9, "supporting"), evidence("INS", 1.0, 0.3, "supporting", absent=True)),
    explained("delta", evidence("SST", 1.0, 0.8, "supporting"), evidence("INS", 0.1, 0.0, "missing")),
]


def names_of(axes: Axes) -> tuple[list[str], list[str]]:
    return [text.get_text() for text in axes.get_xticklabels()], [text.get_text() for text in axes.get_yticklabels()]


def test_dots_have_the_attribution_and_the_share_of_expressing_cells() -> None:
    axes = pl.genes(LABELS)
    assert names_of(axes) == (["INS", "GCG", "SST"], ["beta", "alpha", "delta"])
    dots, crosses = axes.collections[:2]
    indices = {(int(x), int(y)): index for index, (x, y) in enumerate(np.asarray(dots.get_offsets()))}
    assert set(indices) == {(0, 0), (1, 0), (2, 0), (1, 1), (0, 1), (2, 2)}
    values, sizes = np.asarray(dots.get_array()), np.asarray(dots.get_sizes())  # type: ignore[attr-defined]
    assert [values[indices[position]] for position in ((0, 0), (1, 0), (2, 0), (1, 1))] == [1.0, 0.5, -0.25, 1.0]
    assert sizes[indices[0, 0]] > sizes[indices[1, 1]] > sizes[indices[0, 1]] > sizes[indices[1, 0]]
    # A ring marks a gene that supports a label by its absence. A cross marks a marker gene that cells do not express.
    widths = np.asarray(dots.get_linewidth())
    assert (widths > 1).sum() == 2
    assert np.asarray(crosses.get_offsets()).tolist() == [[0, 2]]


def test_each_label_has_its_strongest_genes_once() -> None:
    assert names_of(pl.genes(LABELS, n_genes=1))[0] == ["INS", "GCG", "SST"]
    assert names_of(pl.genes(LABELS[0], n_genes=1)) == (["INS"], ["beta"])


def test_an_explanation_has_a_row_for_each_group() -> None:
    groups = tuple(ExplainedGroup(f"cluster {row}", label) for row, label in enumerate(LABELS))
    assert names_of(pl.genes(Explanation(groups, "cluster", "made up", ())))[1] == [
        "cluster 0",
        "cluster 1",
        "cluster 2",
    ]


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    labels = [explained(name, evidence(name, 1.0, 0.5, "supporting")) for name in HOSTILE]
    for kind in ("png", "svg"):
        axes = pl.genes(labels, title=HOSTILE[1], save=tmp_path / f"dots.{kind}")
    assert len(names_of(axes)[0]) == len(HOSTILE)


@pytest.mark.parametrize(
    ("labels", "how", "message"),
    [
        ([], {}, "The labels have 0 supporting genes; expected 1 to 300"),
        ([LABELS[2].genes[0]], {}, "labels has a value of the type GeneEvidence; expected"),
        (LABELS[2].genes[0], {}, "labels has a value of the type GeneEvidence; expected"),
        (LABELS, {"n_genes": 0}, "n_genes is 0; expected a whole number of at least 1"),
    ],
)
def test_wrong_arguments_are_refused(labels: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pl.genes(labels, **how)

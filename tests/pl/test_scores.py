"""Histograms of scores and their cut-offs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from spikgpt import Annotation, pl
from spikgpt.errors import ConfigError


def cells_in_histogram(panel: Axes) -> int:
    """Return the number of cells in a stacked histogram."""
    return round(sum(bar.get_height() for bar in panel.patches if isinstance(bar, Rectangle)))


def cutoffs(panel: Axes) -> list[float]:
    return [float(np.asarray(line.get_xdata())[0]) for line in panel.lines]


def panels_of(adata: AnnData | Annotation, **how: Any) -> list[Axes]:
    panels = pl.confidence(adata, **how)
    return panels if isinstance(panels, list) else [panels]


def test_each_score_has_a_panel_with_all_cells_and_the_cut_off_of_the_rule(islets: AnnData) -> None:
    panels = panels_of(islets)
    assert [panel.get_xlabel().split(":")[0] for panel in panels] == [
        "confidence",
        "typicality",
        "out-of-distribution score",
    ]
    assert [cells_in_histogram(panel) for panel in panels] == [islets.n_obs] * 3
    assert [cutoffs(panel) for panel in panels] == [[], [], [0.0]]
    unknown = int((islets.obs["spikgpt_label"] == "Unknown").sum())
    legend = panels[2].get_legend()
    assert legend is not None
    texts = {text.get_text() for text in legend.get_texts()}
    assert texts == {"cut-off 0", f"labelled: {islets.n_obs - unknown}", f"Unknown: {unknown}"}


def test_a_threshold_on_the_confidence_is_a_cut_off(islets: AnnData, annotation: Annotation) -> None:
    islets.uns["spikgpt"]["threshold"] = 0.95
    (panel,) = panels_of(islets, scores="confidence", bins=10)
    assert cutoffs(panel) == [0.95]
    assert len(panel.patches) == 20
    few_genes = replace(annotation, rule=replace(annotation.rule, least_confidence=0.7))
    assert [cutoffs(panels) for panels in panels_of(few_genes)] == [[0.7], []]


def test_empty_cells_are_left_out(islets: AnnData) -> None:
    islets.obs.loc[islets.obs_names[:5], "spikgpt_confidence"] = 0
    islets.obs.loc[islets.obs_names[:5], "spikgpt_ood_score"] = np.nan
    assert [cells_in_histogram(panel) for panel in panels_of(islets)] == [islets.n_obs - 5] * 3


def test_one_score_is_drawn_on_given_axes(islets: AnnData) -> None:
    import matplotlib.pyplot as plt

    panel = plt.figure().add_subplot()
    assert pl.confidence(islets, "typicality", ax=panel) is panel
    with pytest.raises(ConfigError, match="ax is one panel for 3 scores"):
        pl.confidence(islets, ax=panel)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scores": "depth"}, "scores is 'depth'; expected one or more of the scores of this annotation: confidence,"),
        ({"scores": []}, r"scores is \[\]; expected one or more"),
        ({"bins": 0}, "bins is 0; expected a whole number of at least 1"),
        ({"bins": 2.5}, "bins is 2.5"),
    ],
)
def test_wrong_options_are_refused(islets: AnnData, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pl.confidence(islets, **how)


def test_a_score_that_an_annotation_lacks_is_explained(annotation: Annotation) -> None:
    with pytest.raises(ConfigError, match="of an older format, or another rule for Unknown"):
        pl.confidence(annotation, "ood_score")


def test_a_query_without_cells_is_drawn(islets: AnnData) -> None:
    assert [cells_in_histogram(panel) for panel in panels_of(islets[:0].copy())] == [0, 0, 0]

"""Plots of the cells on a 2-D map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text

from spikgpt import Annotation, pl
from spikgpt.errors import ConfigError
from spikgpt.pl.canvas import figure_of
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from tests.pl.simulated import HOSTILE, annotated


def texts_on(axes: Axes) -> list[Text]:
    return [text for text in axes.texts if text.get_text()]


def legend_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def count_overlapping_texts(axes: Axes) -> int:
    """Return the number of pairs of texts on a map that overlap, after the figure is drawn."""
    figure = figure_of(axes)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts_on(axes)]
    inside = axes.get_window_extent()
    assert all(inside.containsx(x) and inside.containsy(y) for box in boxes for x, y in box.corners())
    return sum(bool(box.overlaps(other)) for index, box in enumerate(boxes) for other in boxes[:index])


def colors_of(axes: Axes, *layers: int) -> set[str]:
    """Return the colours of the points in some layers, by default in all layers."""
    chosen = [axes.collections[layer] for layer in layers] if layers else axes.collections
    return {to_hex(color) for points in chosen for color in np.asarray(points.get_facecolor())}


def sizes_of(axes: Axes) -> list[int]:
    """Return the number of points in each layer."""
    return [len(np.asarray(points.get_offsets())) for points in axes.collections]


def test_labels_have_their_colours_and_unknown_is_grey(islets: AnnData) -> None:
    axes = pl.umap(islets)
    assert colors_of(axes) == {*palette(4), UNKNOWN_COLOR}
    assert sorted(text.get_text() for text in texts_on(axes)) == ["alpha", "beta", "delta", "gamma"]
    assert legend_of(axes) == ["Unknown"]
    assert sum(sizes_of(axes)) == islets.n_obs
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("UMAP1", "UMAP2", "spikgpt_label")
    # A label keeps its colour if only a part of the cells is drawn.
    beta = islets[islets.obs["spikgpt_label"] == "beta"].copy()
    assert colors_of(pl.umap(beta)) == {palette(2)[1]}


@pytest.mark.parametrize("number", [8, 30, 100])
def test_names_and_numbers_never_overlap(number: int) -> None:
    adata = annotated([f"some cell type {row}" for row in range(number)], 3000)
    axes = pl.umap(adata)
    assert count_overlapping_texts(axes) == 0
    shown = len(texts_on(axes))
    assert shown >= (0.8 * number if number == 100 else number)
    if number == 100:
        assert len(legend_of(axes)) == 101
        assert legend_of(axes)[0] == "1  some cell type 0"


@pytest.mark.parametrize("legend", ["auto", "on data", "numbers", "right", "none"])
def test_hostile_names_do_no_harm(legend: Any) -> None:
    axes = pl.umap(annotated(HOSTILE), legend=legend)
    assert count_overlapping_texts(axes) == 0
    # If long names do not fit, numbers replace the names.
    assert len(legend_of(axes)) in {"none": (0,), "on data": (1, len(HOSTILE) + 1)}.get(legend, (len(HOSTILE) + 1,))
    assert len(texts_on(axes)) == {"none": 0, "right": 0}.get(legend, len(HOSTILE))


def test_numbers_and_columns_of_other_kinds(islets: AnnData) -> None:
    values = islets.obs["spikgpt_confidence"].to_numpy()
    axes = pl.umap(islets, "confidence")
    (points,) = axes.collections
    np.testing.assert_array_equal(np.sort(np.asarray(points.get_array())), np.sort(values))
    assert len(figure_of(axes).axes) == 2
    with_gaps = islets.obs["depth"].astype(float).where(np.arange(islets.n_obs) > 9)
    assert sizes_of(pl.umap(islets, with_gaps.to_numpy())) == [10, 590]
    truth = pl.umap(islets, islets.obs["depth"].to_numpy() > 4000, title="deep")
    assert sorted(text.get_text() for text in texts_on(truth)) == ["False", "True"]
    assert truth.get_title() == "deep"
    islets.obs["whole"] = pd.array([None if row == 0 else row for row in range(islets.n_obs)], dtype="Int64")
    assert sizes_of(pl.umap(islets, "whole")) == [1, 599]


def test_an_annotation_needs_coordinates(annotation: Annotation) -> None:
    points = np.random.default_rng(0).standard_normal((12, 2))
    axes = pl.umap(annotation, basis=points)
    assert sorted(text.get_text() for text in texts_on(axes)) == ["alpha", "beta"]
    assert axes.get_xlabel() == "map1"
    with pytest.raises(ConfigError, match="An Annotation has no map"):
        pl.umap(annotation)


def test_rare_labels_lie_above_the_others_and_unknown_cells_below(islets: AnnData) -> None:
    labels = islets.obs["spikgpt_label"].astype(str).to_numpy()
    labels[labels == "gamma"] = "beta"
    labels[3] = "gamma"
    islets.obs["spikgpt_label"] = pd.Categorical(labels)
    axes = pl.umap(islets, legend="none")
    assert colors_of(axes, 0) == {UNKNOWN_COLOR}
    assert colors_of(axes, -1) == {palette(4)[3]}


def test_wrong_options_are_refused(islets: AnnData) -> None:
    with pytest.raises(ConfigError, match="legend is 'below'; expected 'auto', 'on data'"):
        pl.umap(islets, legend="below")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="color is 'colour', but obs has no such column"):
        pl.umap(islets, "colour")


def test_a_map_without_cells_or_of_unknown_cells_is_drawn(islets: AnnData) -> None:
    unknown: Sequence[str] = ["Unknown"] * islets.n_obs
    assert texts_on(pl.umap(islets, unknown)) == []
    assert pl.umap(islets[:0].copy()).collections[:] == []

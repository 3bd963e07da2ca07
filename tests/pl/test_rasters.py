"""Spike raster of one cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from spikgpt import pl
from spikgpt.errors import ConfigError
from spikgpt.explain.spikes import SpikeActivity
from tests.engines.test_model import classifier_for, embeddings
from tests.explain.test_energy import activity
from tests.pl.simulated import HOSTILE


@pytest.fixture(scope="module")
def spikes() -> SpikeActivity:
    return activity(classifier_for({"copies": 3}, trained=True), embeddings(5).double())


def test_each_spike_has_a_mark_in_its_layer_and_at_its_step(spikes: SpikeActivity) -> None:
    axes, expected = pl.raster(spikes, "cell 3"), spikes.raster(3)
    marks = [lines.get_segments() for lines in axes.collections if isinstance(lines, LineCollection)]
    assert [len(segments) for segments in marks] == [int(layer.sum()) for layer in expected.layers.values()]
    start = 0
    for segments, layer in zip(marks, expected.layers.values(), strict=True):
        points = {(round(segment[0][1]) - start, round(segment[:, 0].mean()) - 1) for segment in segments}
        assert points == set(zip(*map(np.ndarray.tolist, np.nonzero(layer)), strict=True))
        start += len(layer) + 16
    assert axes.get_title() == f"cell 3, {expected.label}"
    first = axes.get_yticklabels()[0].get_text()
    assert first == f"query\n128 neurons, {100 * expected.layers['query'].mean():.1f}%"


def test_a_raster_of_one_cell_can_be_drawn_and_hostile_names_do_no_harm(spikes: SpikeActivity) -> None:
    for name in HOSTILE:
        axes = pl.raster(replace(spikes.raster(0), cell=name))
        axes.figure.canvas.draw()
        assert axes.get_title().isprintable()
        axes.figure.clear()
    assert pl.raster(spikes, title="mine").get_title() == "mine"


def test_other_objects_and_cells_are_refused(spikes: SpikeActivity) -> None:
    with pytest.raises(ConfigError, match="spikes is a str; expected the result of SpikGPT.spikes"):
        pl.raster("spikes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cells names 'nobody'"):
        pl.raster(spikes, "nobody")

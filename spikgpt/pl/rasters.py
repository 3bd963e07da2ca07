"""Spike raster of one cell: layers, neurons and time steps."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikgpt.errors import ConfigError
from spikgpt.explain.spikes import SpikeActivity, SpikeRaster
from spikgpt.pl.canvas import FONT, check_axes, check_save, finish, new_axes, shown
from spikgpt.scoring.palette import FIRST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Gap between two layers, in rows of neurons. Width and height of the picture in inches.
GAP, WIDTH, HEIGHT = 16, 4.2, 6.0


def raster(
    spikes: SpikeRaster | SpikeActivity,
    cell: str | int = 0,
    *,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the spikes of one cell: a mark for each neuron that fires at a time step.

    Layers are below each other in the order of the network. The text beside a layer has the mean share of its neurons
    that fire at a time step. Lines separate attention heads.

    Parameters
    ----------
    spikes
        The result of :meth:`spikgpt.SpikGPT.spikes`, or the raster of one of its cells.
    cell
        Name of the cell, or its position; only for the result of :meth:`spikgpt.SpikGPT.spikes`.
    title
        Title; None for the name of the cell and its label.
    ax, show, save
        As for :func:`spikgpt.pl.umap`.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        When there is no such cell, an option is wrong, or matplotlib is not installed.
    """
    check_save(save)
    check_axes(ax)
    if isinstance(spikes, SpikeActivity):
        spikes = spikes.raster(cell)
    if not isinstance(spikes, SpikeRaster):
        msg = f"spikes is a {type(spikes).__name__}; expected the result of SpikGPT.spikes(adata)."
        raise ConfigError(msg)
    axes = ax or new_axes(WIDTH, HEIGHT)[0]
    top, steps, ticks = 0, 1, []
    for color, (name, layer) in zip(cycle(FIRST), spikes.layers.items(), strict=False):
        neurons, steps = layer.shape
        rows, columns = np.nonzero(layer)
        axes.hlines(top + rows, columns + 0.55, columns + 1.45, color=color, linewidth=0.8)
        heads = 1 if name.endswith("hidden") else spikes.heads
        for head in range(1, heads):
            axes.axhline(top + head * neurons / heads - 0.5, color="#dddddd", linewidth=0.4, zorder=0)
        axes.axhspan(top - 0.5, top + neurons - 0.5, color=color, alpha=0.06, linewidth=0, zorder=-1)
        ticks.append((top + neurons / 2, f"{name}\n{neurons} neurons, {100 * layer.mean():.1f}%"))
        top += neurons + GAP
    axes.set_yticks([position for position, _ in ticks], [text for _, text in ticks], fontsize=FONT)
    axes.set_xticks(range(1, steps + 1))
    axes.set(xlim=(0.5, steps + 0.5), ylim=(top - GAP, -1), xlabel="time step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(shown(f"{spikes.cell}, {spikes.label}" if title is None else title), fontsize=FONT + 2)
    finish(axes, own=ax is None, show=show, save=save)
    return axes

"""Map of the cells of a query, by label or by any other column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import ConfigError, listed, printable
from spikgpt.options import KEY_ADDED
from spikgpt.pl.annotated import MISSING, MISSING_COLOR, AnnotatedCells
from spikgpt.pl.canvas import FONT, add_legend, check_axes, check_save, figure_of, finish, legend_size, new_axes, shown
from spikgpt.pl.placement import place_boxes
from spikgpt.scoring.annotation import Annotation
from spikgpt.types import UNKNOWN, Floats, Integers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LegendPlace = Literal["auto", "on data", "numbers", "right", "none"]
# legend="auto" writes names on the map if there are at most 30 names, each of at most 28 letters.
MOST_NAMES, LONGEST_NAME = 30, 28
# Side of the map in inches. Largest distance of a name from its cells, as a share of the side.
SIDE, FARTHEST = 5.2, 0.25
# Total area of the dots of all cells, and largest and smallest area of one dot, in square points.
POINTS, LARGEST, SMALLEST = 30_000, 24.0, 0.5
# Labels with less than this share of the cells are drawn above the other labels.
RARE = 0.01
# Distance in pixels from a name to its cells above which a line joins the name and the cells.
FAR = 14.0


def umap(
    adata: AnnData | Annotation,
    color: str | Sequence[Any] | None = None,
    *,
    key: str = KEY_ADDED,
    basis: str | Floats = "X_umap",
    legend: LegendPlace = "auto",
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw a map of the cells, coloured by label or by another column.

    A label has the same colour in every picture, and Unknown is grey. Names on the map never overlap: where there is
    no room for a name, numbers stand for names, and a legend explains them.

    Parameters
    ----------
    adata
        Annotated AnnData, or the result of :meth:`spikgpt.SpikGPT.annotate`.
    color
        Column of ``obs``, or a column of the annotation without the prefix, such as ``confidence``; or one value for
        each cell. None for the labels.
    key
        Prefix of the columns of the annotation: its ``key_added``.
    basis
        Name in ``obsm``, such as ``X_umap``; or coordinates, shape (n, 2), which an Annotation needs.
    legend
        ``on data`` writes names on the map, ``numbers`` writes numbers on the map and names beside it, ``right`` writes
        names beside the map, and ``none`` writes no names. ``auto`` chooses ``on data`` or ``numbers``.
    size
        Area of the dot of a cell, in square points. None for an area that depends on the number of cells.
    title
        Title; None for the name of the column.
    ax
        Axes to draw on; None for a new figure.
    show
        Show the figure at once. None leaves this to the notebook.
    save
        File to write: png, pdf or svg. After writing, a new figure is closed unless ``show`` is True.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        When a column or the coordinates are missing, an option is wrong, or matplotlib is not installed.
    """
    check_save(save)
    check_axes(ax)
    if legend not in get_args(LegendPlace):
        msg = f"legend is {legend!r}; expected {listed(map(repr, get_args(LegendPlace)))}."
        raise ConfigError(msg)
    cells = AnnotatedCells.read(adata, key)
    points, name = cells.coordinates(basis)
    column = cells.column("label" if color is None else color, "color")
    area = size or float(np.clip(POINTS / max(len(points), 1), SMALLEST, LARGEST))
    own = ax is None
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric:
        axes = _by_number(points, column.to_numpy(dtype=np.float64, na_value=np.nan), area, ax)
    else:
        axes = _by_name(cells, points, "label" if color is None else color, area, legend, ax)
    axes.set(xticks=[], yticks=[], xlabel=f"{shown(name)}1", ylabel=f"{shown(name)}2")
    axes.set_title(shown(column.name if title is None else title) if title or column.name is not None else "")
    finish(axes, own=own, show=show, save=save)
    return axes


def _by_number(points: Floats, values: Floats, area: float, ax: Axes | None) -> Axes:
    """Colour the cells of a map by a number, with a colour bar; draw cells with larger numbers on top."""
    axes = ax or new_axes(SIDE + 1.2, SIDE)[0]
    missing = ~np.isfinite(values)
    if missing.any():
        axes.scatter(points[missing, 0], points[missing, 1], s=area, color=MISSING_COLOR, linewidths=0, rasterized=True)
    order = np.flatnonzero(~missing)[np.argsort(values[~missing], kind="stable")]
    collection = axes.scatter(
        points[order, 0], points[order, 1], s=area, c=values[order], cmap="viridis", linewidths=0, rasterized=True
    )
    if len(order):
        figure_of(axes).colorbar(collection, ax=axes, shrink=0.7, aspect=30)
    return axes


def _by_name(
    cells: AnnotatedCells, points: Floats, color: Any, area: float, legend: LegendPlace, ax: Axes | None
) -> Axes:
    """Colour the cells of a map by the names in a column, and write the names as ``legend`` says."""
    texts = cells.texts(color, "color")
    names = cells.ordered(texts)
    colors = cells.colors(names)
    on_map = [name for name in names if name not in (UNKNOWN, MISSING)]
    if legend == "auto":
        few = len(on_map) <= MOST_NAMES and max(map(len, map(printable, on_map)), default=0) <= LONGEST_NAME
        legend = "on data" if few else "numbers"
    beside = names if legend in ("numbers", "right") else [name for name in names if name not in on_map]
    width = legend_size(beside)[2] if beside and legend != "none" else 0
    axes = ax or new_axes(SIDE + width, SIDE)[0]
    codes = np.array([names.index(name) for name in texts.categories], dtype=np.int64)[texts.codes]
    _scatter(axes, points, codes, [colors[name] for name in names], len(on_map), area)
    anchors = _anchors(points, codes, len(on_map))
    if legend == "on data":
        explained = add_legend(axes, beside, [colors[name] for name in beside]) if beside else None
        if _write(axes, [shown(name) for name in on_map], anchors):
            return axes
        # Not every name has room on the map: numbers replace the names. Their legend needs a wider figure.
        legend = "numbers"
        if explained is not None:
            explained.remove()
        if ax is None:
            figure_of(axes).set_size_inches(SIDE + legend_size(names)[2], SIDE)
    numbers = {name: str(number) for number, name in enumerate(on_map, 1)} if legend == "numbers" else {}
    if legend != "none":
        prefixes = [f"{numbers[name]}  " if name in numbers else "" for name in names]
        add_legend(axes, names, [colors[name] for name in names], prefixes=prefixes)
    _write(axes, list(numbers.values()), anchors, partly=True)
    return axes


def _scatter(axes: Axes, points: Floats, codes: Integers, colors: Sequence[str], labels: int, area: float) -> None:
    """Draw the cells of a map: first Unknown cells, then most labels in random order, then rare labels on top.

    The random order keeps one label from hiding the others. ``codes``, shape (n,), is the index of the colour of each
    cell. Indices from ``labels`` on are colours of cells that are Unknown or have no value.
    """
    from matplotlib.colors import to_rgba_array

    order = np.random.default_rng(0).permutation(len(points))
    rare = np.bincount(codes, minlength=len(colors)) < RARE * len(points)
    below = codes[order] >= labels
    above = rare[codes[order]] & ~below
    shades = to_rgba_array(colors)
    for rows in (order[below], order[~below & ~above], order[above]):
        if len(rows):
            axes.scatter(points[rows, 0], points[rows, 1], s=area, c=shades[codes[rows]], linewidths=0, rasterized=True)


def _anchors(points: Floats, codes: Integers, labels: int) -> Floats:
    """Return the median point of the cells of each label, shape (labels, 2)."""
    groups = pd.DataFrame(points).groupby(codes).median().reindex(range(labels))
    return np.asarray(groups.to_numpy(), dtype=np.float64).reshape(-1, 2)


def _write(axes: Axes, texts: Sequence[str], anchors: Floats, *, partly: bool = False) -> bool:
    """Write texts near their anchors on the map, and return True.

    If there is no room for all texts, write no text and return False. If ``partly`` is True, write the texts that have
    room.
    """
    from matplotlib.patheffects import withStroke

    if not texts:
        return True
    figure_of(axes).draw_without_rendering()
    axes.set_autoscale_on(False)
    box, pixels = axes.get_window_extent(), axes.transData.transform(anchors)
    halo = [withStroke(linewidth=2, foreground="white")]
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": FONT, "path_effects": halo, "zorder": 5}
    text_artists = [axes.text(0, 0, text, **style) for text in texts]
    extents = [text.get_window_extent() for text in text_artists]
    sizes = np.array([(extent.width, extent.height) for extent in extents])
    start, bounds = np.array([box.x0, box.y0]), (box.width, box.height)
    centres = place_boxes(pixels - start, sizes, bounds, farthest=FARTHEST * min(bounds))
    missing = np.isnan(centres[:, 0])
    if missing.any() and not partly:
        for text in text_artists:
            text.remove()
        return False
    positions = axes.transData.inverted().transform(centres + start)
    for text, position, pixel, centre, anchor, extent in zip(
        text_artists, positions, pixels - start, centres, anchors, sizes, strict=True
    ):
        if np.isnan(centre[0]):
            text.remove()
            continue
        text.set_position(tuple(position))
        # Distance from the box of the text to the anchor, the median position of the cells.
        gap = np.linalg.norm(np.maximum(np.abs(centre - pixel) - extent / 2, 0))
        if gap > FAR:
            axes.plot(*zip(position, anchor, strict=True), color="#606060", linewidth=0.6, zorder=4)
    return True

"""Composition of samples, and agreement of labels with clusters or other columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import ConfigError
from spikgpt.options import KEY_ADDED
from spikgpt.pl.annotated import AnnotatedCells
from spikgpt.pl.canvas import (
    FONT,
    LEGEND_ROWS,
    LETTER,
    ROW,
    add_legend,
    check_axes,
    check_save,
    figure_of,
    finish,
    legend_size,
    new_axes,
    shown,
)
from spikgpt.scoring.annotation import CLUSTER, Annotation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Length of the bars, height of one bar, and largest side of a heat map, in inches.
BARS, BAR, LARGEST = 5.0, 0.28, 30.0
# Largest number of rows or columns; a picture with more would be unreadable.
MOST = 300
# Largest number of rows and columns with numbers in a heat map.
NUMBERED = 40
ALL_CELLS = "all cells"
# Text between the names of the columns of batches.
BETWEEN_COLUMNS = " x "


def composition(
    adata: AnnData | Annotation,
    by: str | Sequence[Any] | None = None,
    *,
    color: str | Sequence[Any] = "label",
    key: str = KEY_ADDED,
    counts: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the share of each label in each sample, as stacked bars.

    Parameters
    ----------
    adata
        Annotated AnnData, or the result of :meth:`spikgpt.SpikGPT.annotate`.
    by
        Column of ``obs`` with samples, donors or batches, or one value for each cell. None for the batches of the
        annotation, if they are in columns of ``obs``; otherwise all cells are one bar.
    color
        Column of ``obs``, or of the annotation without the prefix, whose shares are drawn; or one value for each cell.
    key
        Prefix of the columns of the annotation: its ``key_added``.
    counts
        Draw numbers of cells instead of shares.
    title
        Title; None for no title.
    ax, show, save
        As for :func:`spikgpt.pl.umap`.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        When a column is missing or has too many values, an option is wrong, or matplotlib is not installed.
    """
    check_save(save)
    check_axes(ax)
    cells = AnnotatedCells.read(adata, key)
    if by is None:
        by = _batches(cells)
    samples, labels = cells.texts(by, "by"), cells.texts(color, "color")
    table = _counts(samples, labels, cells.ordered(samples), cells.ordered(labels))
    totals = table.sum(axis=1)
    values = table if counts else table.div(totals, axis=0)
    names, rows = list(table.columns), list(table.index)
    _check_size(len(rows), "by")
    colors, height = cells.colors(names), max(1.2, 0.7 + BAR * len(rows))
    legend_rows = max(LEGEND_ROWS if len(names) > LEGEND_ROWS else 8, int(height / ROW) - 3)
    columns, _, legend_width = legend_size(names, legend_rows)
    height = max(height, 0.6 + ROW * min(legend_rows, -(-len(names) // columns)))
    axes = ax or new_axes(BARS + legend_width + LETTER * min(40, max(map(len, rows))), height)[0]
    positions, starts = np.arange(len(rows)), np.zeros(len(rows))
    for name in names:
        width = values[name].to_numpy(dtype=np.float64)
        axes.barh(positions, width, left=starts, height=0.8, color=colors[name], edgecolor="white", linewidth=0.4)
        starts = starts + width
    numbers = [f"{shown(row, 40)} ({int(total):,})" for row, total in zip(rows, totals, strict=True)]
    axes.set_yticks(positions, numbers, fontsize=FONT)
    axes.set_xlabel("cells" if counts else "share of the cells")
    axes.set(xlim=(0, float(starts.max(initial=0)) or 1), ylim=(len(rows) - 0.5, -0.5))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if title:
        axes.set_title(shown(title))
    add_legend(axes, names, [colors[name] for name in names], rows=legend_rows)
    finish(axes, own=ax is None, show=show, save=save)
    return axes


def agreement(
    adata: AnnData | Annotation,
    by: str | Sequence[Any] | None = None,
    *,
    color: str | Sequence[Any] = "label",
    key: str = KEY_ADDED,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw a heat map of labels and clusters, or of labels and another column: percentages of the cells of each label.

    Columns are sorted by their most frequent label, in the order of the rows.

    Parameters
    ----------
    adata
        Annotated AnnData, or the result of :meth:`spikgpt.SpikGPT.annotate`.
    by
        Column of ``obs`` with clusters or other labels, or one value for each cell. None for the clusters of the
        annotation, which ``majority_vote=True`` makes.
    color
        Column of ``obs``, or of the annotation without the prefix, for the rows; or one value for each cell.
    key
        Prefix of the columns of the annotation: its ``key_added``.
    title
        Title; None for no title.
    ax, show, save
        As for :func:`spikgpt.pl.umap`.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        When a column is missing or has too many values, an option is wrong, or matplotlib is not installed.
    """
    check_save(save)
    check_axes(ax)
    cells = AnnotatedCells.read(adata, key)
    if by is None and f"{cells.key}_{CLUSTER}" not in cells.obs:
        msg = "This annotation has no clusters; name a column of obs, such as by='leiden', or use majority_vote=True."
        raise ConfigError(msg)
    groups, labels = cells.texts(CLUSTER if by is None else by, "by"), cells.texts(color, "color")
    table = _counts(labels, groups, cells.ordered(labels), cells.ordered(groups))
    _check_size(len(table), "color")
    _check_size(len(table.columns), "by")
    # Columns with the same most frequent label are next to each other.
    order = np.argsort(table.to_numpy().argmax(axis=0), kind="stable")
    table = table.iloc[:, order]
    totals = table.sum(axis=1)
    shares = table.div(totals, axis=0)
    rows = [f"{shown(name, 40)} ({int(totals[name]):,})" for name in shares.index]
    columns = [shown(name, 40) for name in shares.columns]
    longest = [LETTER * max(map(len, names)) for names in (rows, columns)]
    width = min(LARGEST, 1.6 + longest[0] + 0.27 * len(columns))
    axes = ax or new_axes(width, min(LARGEST, 1.0 + longest[1] + 0.22 * len(rows)))[0]
    image = axes.imshow(100 * shares.to_numpy(), cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=FONT)
    axes.set_yticks(range(len(rows)), rows, fontsize=FONT)
    axes.set_xlabel(shown(by) if isinstance(by, str) else "cluster" if by is None else "")
    figure_of(axes).colorbar(image, ax=axes, label="% of the label's cells", shrink=0.8, aspect=30)
    if max(shares.shape) <= NUMBERED:
        for (row, column), share in np.ndenumerate(shares.to_numpy()):
            if share >= 0.005:
                shade = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=shade)
    if title:
        axes.set_title(shown(title))
    finish(axes, own=ax is None, show=show, save=save)
    return axes


def _batches(cells: AnnotatedCells) -> str | list[str]:
    """Return the batches of an annotation: the name of a column of obs, or the batch of each cell.

    The names of batches from several columns are joined. If obs lacks the columns, all cells are one batch.
    """
    columns = str(cells.facts.get("batch_key") or "").split(BETWEEN_COLUMNS)
    if not all(column in cells.obs for column in columns):
        return [ALL_CELLS] * len(cells.obs)
    if len(columns) == 1:
        return columns[0]
    rows = zip(*(cells.column(column, "by").astype(str) for column in columns), strict=True)
    return [BETWEEN_COLUMNS.join(row) for row in rows]


def _counts(rows: pd.Categorical, columns: pd.Categorical, row_names: list[str], names: list[str]) -> pd.DataFrame:
    """Return a table with the number of cells for each pair of a row name and a column name."""
    counts = np.zeros((len(rows.categories), len(columns.categories)), dtype=np.int64)
    np.add.at(counts, (rows.codes, columns.codes), 1)
    table = pd.DataFrame(counts, index=rows.categories.astype(str), columns=columns.categories.astype(str))
    return table.reindex(index=row_names, columns=names, fill_value=0)


def _check_size(number: int, argument: str) -> None:
    """Raise ConfigError if a column has no values, or too many different values for a picture."""
    if not 0 < number <= MOST:
        msg = f"{argument} has {number} different values; expected 1 to {MOST}. Name another column."
        raise ConfigError(msg)

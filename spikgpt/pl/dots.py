"""Dot plot of the genes behind labels: attribution and expression."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spikgpt.errors import ConfigError
from spikgpt.explain.explanation import Explanation
from spikgpt.explain.labels import LabelGenes
from spikgpt.pl.canvas import FONT, LETTER, check_axes, check_save, figure_of, finish, new_axes, shown
from spikgpt.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Default number of genes of each label, and largest number of genes in a picture.
N_GENES, MOST = 4, 300
# Area of the largest dot in square points. Width of a gene's column and height of a label's row in inches.
LARGEST, GENE, LABEL = 90.0, 0.21, 0.26
# Shares of expressing cells for which the legend shows a dot.
SHARES = (0.25, 0.5, 1.0)


def genes(
    labels: Explanation | LabelGenes | Iterable[LabelGenes],
    *,
    n_genes: int = N_GENES,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the genes behind each label as dots.

    The area of a dot is the share of the label's cells that express the gene. The colour is the attribution, as a share
    of the largest attribution of the label: orange genes support the label, and purple genes conflict with it. A ring
    marks a gene that supports a label by its absence. A cross marks a missing gene: the cells do not express a marker
    of their label. The columns are the strongest supporting genes of each label. A dot in the row of another label
    shows that the gene is also among the genes of that label.

    Parameters
    ----------
    labels
        The result of :meth:`spikgpt.SpikGPT.explain`, or the genes behind one label or several labels.
    n_genes
        Number of supporting genes of each label.
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
        When there are no genes, an option is wrong, or matplotlib is not installed.
    """
    check_save(save)
    check_axes(ax)
    if isinstance(n_genes, bool) or not isinstance(n_genes, int) or n_genes < 1:
        msg = f"n_genes is {n_genes!r}; expected a whole number of at least 1."
        raise ConfigError(msg)
    if isinstance(labels, Explanation):
        explained, titles = [group.genes for group in labels.groups], [group.name for group in labels.groups]
    else:
        explained = list(labels) if isinstance(labels, Iterable) else [labels]
        titles = [str(getattr(label, "label", "")) for label in explained]
    if types := [type(label).__name__ for label in explained if not isinstance(label, LabelGenes)]:
        msg = f"labels has a value of the type {types[0]}; expected the result of SpikGPT.explain, or its LabelGenes."
        raise ConfigError(msg)
    names = list(dict.fromkeys(gene.gene for label in explained for gene in label.of_role("supporting")[:n_genes]))
    if not 0 < len(names) <= MOST:
        msg = f"The labels have {len(names)} supporting genes; expected 1 to {MOST}. Choose other labels or n_genes."
        raise ConfigError(msg)
    rows = [shown(title, 40) for title in titles]
    width = 2.4 + LETTER * max(map(len, rows)) + GENE * len(names)
    axes = ax or new_axes(max(width, 3.6), 1.5 + LABEL * len(rows))[0]
    _draw(axes, _dots(explained, names))
    axes.set_xticks(range(len(names)), [shown(name, 20) for name in names], rotation=90, fontsize=FONT)
    axes.set_yticks(range(len(rows)), rows, fontsize=FONT)
    axes.set(xlim=(-0.7, len(names) - 0.3), ylim=(len(rows) - 0.3, -0.7))
    axes.set_axisbelow(True)
    axes.grid(color="#eeeeee", linewidth=0.5)
    if title:
        axes.set_title(shown(title), pad=22)
    finish(axes, own=ax is None, show=show, save=save)
    return axes


def _dots(explained: list[LabelGenes], names: list[str]) -> pd.DataFrame:
    """Return one row per dot: position, share of expressing cells, relative attribution, and kind of the gene."""
    columns, dots = {name: column for column, name in enumerate(names)}, []
    for row, label in enumerate(explained):
        largest = max((abs(gene.attribution or 0.0) for gene in label.genes), default=0.0) or 1.0
        for gene in label.genes:
            if gene.gene in columns:
                dots.append(
                    {
                        "row": row,
                        "column": columns[gene.gene],
                        "expressed": gene.expressed or 0.0,
                        "attribution": (gene.attribution or 0.0) / largest,
                        "missing": gene.role == "missing",
                        "absent": gene.absent and gene.role == "supporting",
                    }
                )
    return pd.DataFrame(dots)


def _draw(axes: Axes, dots: pd.DataFrame) -> None:
    """Draw the dots, with a colour bar and a legend of their sizes."""
    missing = dots["missing"].to_numpy(dtype=bool)
    present, absent = dots[~missing], dots["absent"].to_numpy(dtype=bool)[~missing]
    areas: Floats = 6 + LARGEST * present["expressed"].to_numpy(dtype=np.float64)
    collection = axes.scatter(
        present["column"],
        present["row"],
        s=areas,
        c=present["attribution"],
        cmap="PuOr_r",
        vmin=-1,
        vmax=1,
        edgecolors=["black" if is_absent else "#999999" for is_absent in absent],
        linewidths=[1.2 if is_absent else 0.3 for is_absent in absent],
        zorder=2,
    )
    axes.scatter(dots[missing]["column"], dots[missing]["row"], marker="x", s=20, color="#444444", zorder=2)
    figure_of(axes).colorbar(collection, ax=axes, label="relative attribution", shrink=0.9, aspect=25, pad=0.02)
    handles = [
        axes.scatter([], [], s=6 + LARGEST * share, color="#bbbbbb", label=f"{100 * share:.0f}% of cells")
        for share in SHARES
    ]
    handles.append(axes.scatter([], [], s=40, facecolor="white", edgecolor="black", linewidth=1.2, label="absent"))
    handles.append(axes.scatter([], [], marker="x", s=20, color="#444444", label="missing"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=5,
        frameon=False,
        fontsize=FONT - 1,
        handletextpad=0.2,
        columnspacing=0.8,
        borderaxespad=0.1,
    )

"""The figures of a benchmark, as PNG; colours tell labels and methods apart for all eyes, and numbers do so too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.table import Row
from spikgpt.benchmark.task import Task
from spikgpt.cells.align import log_normalise
from spikgpt.errors import needs
from spikgpt.files import replacing
from spikgpt.reference.pictures import plain, png
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from spikgpt.types import UNKNOWN, Floats, Strings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Genes and components behind the places of cells.
VARIABLE_GENES, COMPONENTS = 2000, 30
# Labels in a column of a legend.
IN_COLUMN = 16
# Labels in a legend at most; the pictures of more would be too wide.
MOST_IN_LEGEND = 20 * IN_COLUMN
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"


def places(task: Task, folder: Path) -> Floats:
    """Return where the query's cells stand in a UMAP of their own principal components, (n, 2); kept in a folder."""
    kept = folder / f"{task.digest}.npy"
    if kept.exists():
        return np.asarray(np.load(kept, allow_pickle=False))
    with needs("scanpy"):
        import scanpy
    values = task.query.X.astype(np.float32)
    if task.query_values == "counts":
        values = log_normalise(values, np.asarray(values.sum(axis=1, dtype=np.float64)).ravel())
    cells = AnnData(values)
    if cells.n_vars > VARIABLE_GENES:
        scanpy.pp.highly_variable_genes(cells, n_top_genes=VARIABLE_GENES)
    scanpy.pp.pca(cells, n_comps=min(COMPONENTS, min(cells.shape) - 1), random_state=0)
    scanpy.pp.neighbors(cells, n_neighbors=min(15, cells.n_obs - 1), random_state=0)
    scanpy.tl.umap(cells, random_state=0)
    with replacing(kept) as temporary, temporary.open("wb") as file:
        np.save(file, cells.obsm["X_umap"], allow_pickle=False)
    return np.asarray(cells.obsm["X_umap"])


def label_colors(task: Task) -> dict[str, str]:
    """Return the colour of each label of a task, the same in all its figures; Unknown is grey."""
    names = sorted({*task.truth.tolist(), *task.reference.obs["label"].astype(str)})
    return {**dict(zip(names, palette(len(names)), strict=True)), UNKNOWN: UNKNOWN_COLOR}


def labels_picture(title: str, where: Floats, truth: Strings, predicted: Strings, colors: dict[str, str]) -> bytes:
    """Draw cells at their places, (n, 2), by true and by predicted label side by side."""
    shown = [name for name in colors if name in truth or name in predicted][:MOST_IN_LEGEND]
    columns, longest = -(-len(shown) // IN_COLUMN), max(len(plain(name)) for name in shown)
    figure = _figure(10.5 + 2.0 * (columns - 1) + 0.06 * longest * columns, 5.0)
    pair = figure.subplots(1, 2, sharex=True, sharey=True)
    # The same in all pictures of a task.
    numbers = {name: place + 1 for place, name in enumerate(colors)}
    order = np.random.default_rng(0).permutation(len(where))
    for axes, labels, heading in zip(pair, (truth, predicted), ("true", "predicted"), strict=True):
        points = [colors[name] for name in labels[order]]
        axes.scatter(*where[order].T, c=points, s=_size(len(where)), linewidths=0, rasterized=True)
        _number(axes, where, labels, numbers)
        axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axes.set_title(heading, fontsize=11)
    handles = [
        _handle(colors[name], "no label" if name == UNKNOWN else f"{numbers[name]}  {plain(name)}") for name in shown
    ]
    figure.legend(handles=handles, loc="outside right center", ncols=columns, fontsize=9, frameon=False)
    figure.suptitle(plain(title), fontsize=12)
    return png(figure)


def bars_picture(title: str, rows: Sequence[Row]) -> bytes:
    """Draw what each method reaches, the best first, with standard errors over the cells."""
    measured = [row for row in rows if row.means][::-1]
    kinds = (("accuracy", "accuracy", BLUE), ("macro_f1", "macro-F1", ORANGE), ("share_right", "share right", GREEN))
    figure = _figure(8.0, 1.4 + 0.52 * len(measured))
    axes = figure.subplots()
    for place, (name, heading, color) in enumerate(kinds):
        heights = np.arange(len(measured)) + (1 - place) * 0.26
        kept = [place for place, row in enumerate(measured) if name != "share_right" or row.rejects]
        values = [measured[place].means[name] for place in kept]
        errors = [measured[place].errors.get(name, 0.0) for place in kept]
        axes.barh(heights[kept], values, 0.24, xerr=errors, color=color, label=heading, error_kw={"linewidth": 0.8})
        for height, value, error in zip(heights[kept], values, errors, strict=True):
            axes.text(value + error + 0.008, height, f"{value:.3f}", va="center", fontsize=7)
    axes.set_yticks(range(len(measured)), [row.title for row in measured])
    axes.set(xlim=(0, 1.1), ylim=(-0.6, len(measured) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    axes.set_title(plain(title), fontsize=12)
    return png(figure)


def time_picture(title: str, rows: Sequence[Row]) -> bytes:
    """Draw accuracy against the time of training and predicting; names stand apart, each with a line to its point.

    Errors are on a logarithmic axis, so that one method far below does not press the others together.
    """
    measured = [row for row in rows if row.means]
    figure = _figure(9.0, max(4.0, 1.2 + 0.27 * len(measured)))
    axes = figure.subplots()
    seconds = np.array([max(row.means["total_seconds"], 1e-2) for row in measured])
    accuracy = np.array([row.means["accuracy"] for row in measured])
    errors = np.maximum(1 - accuracy, 1e-3)
    fewest, most = errors.min() / 1.3, errors.max() * 1.3
    axes.set(xscale="log", yscale="log", ylim=(most, fewest), xlabel="train and predict, seconds", ylabel="accuracy")
    axes.set_xlim(seconds.min() / 1.6, seconds.max() * 1.6)
    _plain_numbers(axes.xaxis, "{:g}".format)
    _plain_numbers(axes.yaxis, lambda error: f"{1 - error:.4g}")
    axes.grid(visible=True, linewidth=0.4, alpha=0.6)
    colors = palette(len(measured))
    for row, x, y, color in zip(measured, seconds, errors, colors, strict=True):
        own = row.method.startswith("spikgpt")
        axes.scatter(
            [x], [y], s=70 if own else 40, marker="D" if own else "o", color=color, edgecolors="black", zorder=3
        )
    order = np.lexsort((seconds, -accuracy))
    heights = _spaced(np.log(most / errors[order]) / np.log(most / fewest), 0.96 / len(measured))
    for height, place in zip(heights, order, strict=True):
        axes.annotate(
            f"{measured[place].title}  {accuracy[place]:.3f}, {seconds[place]:.1f} s",
            (seconds[place], errors[place]),
            xytext=(1.03, height),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "shrinkB": 3, "relpos": (0, 0.5)},
        )
    axes.set_title(plain(title), fontsize=12)
    return png(figure)


def _spaced(heights: Floats, gap: float) -> Floats:
    """Return falling heights from 0 to 1, (n,), moved until they are ``gap`` apart; there must be room for all."""
    spaced = np.array(heights, dtype=np.float64)
    for place in range(1, len(spaced)):
        spaced[place] = min(spaced[place], spaced[place - 1] - gap)
    lowest = 0.0
    for place in range(len(spaced) - 1, -1, -1):
        spaced[place] = max(spaced[place], lowest)
        lowest = spaced[place] + gap
    return spaced


def _plain_numbers(axis: Axis, text: Callable[[float], str]) -> None:
    """Write numbers on a logarithmic axis, at 0.5, 1, 2, 5 and 10 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    with needs("matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def _handle(color: str, text: str) -> Any:
    """Return an entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", marker="o", markersize=7, color=color, label=text)


def _size(cells: int) -> float:
    """Return how large points of so many cells are."""
    return float(np.clip(12000 / max(cells, 1), 1.5, 16))


def _number(axes: Axes, where: Floats, labels: Strings, numbers: dict[str, int]) -> None:
    """Write the number of each label on its cells, unless they are very few, where no other number stands."""
    from matplotlib.patheffects import withStroke

    least = max(3, len(labels) // 500)
    names = [name for name in numbers if name != UNKNOWN and (labels == name).sum() >= least]
    if not names:
        return
    middles = np.array([_middle(where[labels == name]) for name in names])
    span = np.ptp(where, axis=0)
    spots = _apart(middles / span, 0.045) * span
    for name, spot, middle in zip(names, spots, middles, strict=True):
        if np.linalg.norm((spot - middle) / span) > 0.02:
            axes.plot(*np.stack([middle, spot]).T, color="black", linewidth=0.5)
        outline = [withStroke(linewidth=2.5, foreground="white")]
        axes.text(spot[0], spot[1], str(numbers[name]), fontsize=9, ha="center", va="center", path_effects=outline)


def _middle(where: Floats) -> Floats:
    """Return the place of the cell that is nearest to the median of some cells."""
    distance = np.linalg.norm(where - np.median(where, axis=0), axis=1)
    return np.asarray(where[distance.argmin()])


def _apart(spots: Floats, least: float) -> Floats:
    """Push spots, (n, 2), apart until none is nearer than ``least`` to another."""
    moved = np.array(spots, dtype=np.float64)
    for _ in range(200):
        gaps = moved[:, None] - moved[None]
        distance = np.linalg.norm(gaps, axis=2) + np.eye(len(moved)) * 9
        close = distance < least
        if not close.any():
            break
        # Spots on top of each other have no direction to go; one is made up.
        turned = np.arange(len(moved))[:, None] - np.arange(len(moved))[None]
        gaps = np.where(distance[..., None] < 1e-9, np.stack([np.sign(turned), np.cos(turned)], axis=2), gaps)
        units = gaps / np.maximum(np.linalg.norm(gaps, axis=2, keepdims=True), 1e-9)
        push = np.where(close, (least - np.minimum(distance, least)) / 2 + 1e-3, 0)
        moved += (units * push[..., None]).sum(axis=1)
    return moved

"""Draw the pictures of a benchmark as PNG; labels have numbers besides colours, for colour-blind readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from spikgpt.cells.align import log_normalise
from spikgpt.errors import needs
from spikgpt.files import replacing
from spikgpt.reference.pictures import plain, png
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from spikgpt.types import UNKNOWN, Floats, Strings
from spikgpt_benchmark.table import ResultRow
from spikgpt_benchmark.task import BenchmarkTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Numbers of variable genes and of principal components that the UMAP is computed from.
VARIABLE_GENES, COMPONENTS = 2000, 30
# Number of labels in one column of a legend.
IN_COLUMN = 16
# Largest number of labels in a legend; with more, the picture would be too wide.
MOST_IN_LEGEND = 20 * IN_COLUMN
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"


def umap_coordinates(task: BenchmarkTask, cache: Path) -> Floats:
    """Return UMAP coordinates of the query's cells, shape (n, 2), and keep these in ``cache`` for later calls."""
    kept = cache / f"{task.digest}.npy"
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


def label_colors(task: BenchmarkTask) -> dict[str, str]:
    """Return the colour of each label of a task, the same in all pictures of the task; Unknown is grey."""
    names = sorted({*task.truth.tolist(), *task.reference.obs["label"].astype(str)})
    return {**dict(zip(names, palette(len(names)), strict=True)), UNKNOWN: UNKNOWN_COLOR}


def labels_picture(
    title: str, coordinates: Floats, truth: Strings, predicted: Strings, colors: dict[str, str]
) -> bytes:
    """Draw two maps of the cells, coloured by true and predicted label; ``coordinates`` has the shape (n, 2)."""
    shown = [name for name in colors if name in truth or name in predicted][:MOST_IN_LEGEND]
    columns, longest = -(-len(shown) // IN_COLUMN), max(len(plain(name)) for name in shown)
    figure = _figure(10.5 + 2.0 * (columns - 1) + 0.06 * longest * columns, 5.0)
    pair = figure.subplots(1, 2, sharex=True, sharey=True)
    # A label has the same number in all pictures of a task.
    numbers = {name: number for number, name in enumerate(colors, 1)}
    order = np.random.default_rng(0).permutation(len(coordinates))
    for axes, labels, heading in zip(pair, (truth, predicted), ("true", "predicted"), strict=True):
        points = [colors[name] for name in labels[order]]
        axes.scatter(*coordinates[order].T, c=points, s=_size(len(coordinates)), linewidths=0, rasterized=True)
        _number_labels(axes, coordinates, labels, numbers)
        axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axes.set_title(heading, fontsize=11)
    handles = [
        _handle(colors[name], "no label" if name == UNKNOWN else f"{numbers[name]}  {plain(name)}") for name in shown
    ]
    figure.legend(handles=handles, loc="outside right center", ncols=columns, fontsize=9, frameon=False)
    figure.suptitle(plain(title), fontsize=12)
    return png(figure)


def bars_picture(title: str, rows: Sequence[ResultRow]) -> bytes:
    """Draw accuracy, macro-F1 and open-set accuracy of each method, the best first, with standard errors."""
    measured = [row for row in rows if row.means][::-1]
    kinds = (
        ("accuracy", "accuracy", BLUE),
        ("macro_f1", "macro-F1", ORANGE),
        ("open_set_accuracy", "open-set accuracy", GREEN),
    )
    figure = _figure(8.0, 1.4 + 0.52 * len(measured))
    axes = figure.subplots()
    for number, (name, heading, color) in enumerate(kinds):
        heights = np.arange(len(measured)) + (1 - number) * 0.26
        kept = [number for number, row in enumerate(measured) if row.is_ranked_by(name)]
        values = [measured[number].means[name] for number in kept]
        errors = [measured[number].errors.get(name, 0.0) for number in kept]
        axes.barh(heights[kept], values, 0.24, xerr=errors, color=color, label=heading, error_kw={"linewidth": 0.8})
        for height, value, error in zip(heights[kept], values, errors, strict=True):
            axes.text(value + error + 0.008, height, f"{value:.3f}", va="center", fontsize=7)
    axes.set_yticks(range(len(measured)), [row.title for row in measured])
    axes.set(xlim=(0, 1.1), ylim=(-0.6, len(measured) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    axes.set_title(plain(title), fontsize=12)
    return png(figure)


def time_picture(title: str, rows: Sequence[ResultRow]) -> bytes:
    """Draw accuracy against the time of training and predicting; a line connects each point with its name.

    The axis of accuracy shows 1 - accuracy on a log scale, so that one poor method does not compress the others.
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
    for height, number in zip(heights, order, strict=True):
        axes.annotate(
            f"{measured[number].title}  {accuracy[number]:.3f}, {seconds[number]:.1f} s",
            (seconds[number], errors[number]),
            xytext=(1.03, height),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "shrinkB": 3, "relpos": (0, 0.5)},
        )
    axes.set_title(plain(title), fontsize=12)
    return png(figure)


def _spaced(heights: Floats, gap: float) -> Floats:
    """Move heights, sorted from 1 down to 0, shape (n,), until neighbours are at least ``gap`` apart."""
    spaced = np.array(heights, dtype=np.float64)
    for number in range(1, len(spaced)):
        spaced[number] = min(spaced[number], spaced[number - 1] - gap)
    lowest = 0.0
    for number in range(len(spaced) - 1, -1, -1):
        spaced[number] = max(spaced[number], lowest)
        lowest = spaced[number] + gap
    return spaced


def _plain_numbers(axis: Axis, text: Callable[[float], str]) -> None:
    """Write plain numbers on a logarithmic axis, at 0.5, 1, 2, 5, 10 and so on."""
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


def _size(n_cells: int) -> float:
    """Return the size of the points in a map of ``n_cells`` cells."""
    return float(np.clip(12000 / max(n_cells, 1), 1.5, 16))


def _number_labels(axes: Axes, coordinates: Floats, labels: Strings, numbers: dict[str, int]) -> None:
    """Write the number of each label on its most central cell, unless the label has very few cells."""
    from matplotlib.patheffects import withStroke

    fewest = max(3, len(labels) // 500)
    outline = [withStroke(linewidth=2.5, foreground="white")]
    for name, number in numbers.items():
        own = coordinates[labels == name]
        if name != UNKNOWN and len(own) >= fewest:
            x, y = own[np.linalg.norm(own - np.median(own, axis=0), axis=1).argmin()]
            axes.text(x, y, str(number), fontsize=9, ha="center", va="center", path_effects=outline)

"""Pictures of a model card as PNG; the same values give the same bytes."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from spikgpt.errors import needs, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Largest width of a picture of a confusion matrix, and smallest height of a label in the picture, both in inches.
LARGEST, SMALLEST_LABEL = 24.0, 0.12
# Largest number of characters of a label.
LONGEST = 60


def reliability_picture(bins: list[dict[str, Any]]) -> bytes:
    """Draw a reliability diagram, and return it as PNG: accuracy by confidence, one point for each bin of cells."""
    figure, axes = _figure(4.0)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    largest = max(row["cells"] for row in bins)
    for row in bins:
        size = 20 + 180 * (row["cells"] / largest) ** 0.5
        axes.scatter([row["confidence"]], [row["accuracy"]], s=size, color="tab:blue", alpha=0.7)
        axes.annotate(str(row["cells"]), (row["confidence"], row["accuracy"]), fontsize=7, ha="center", va="center")
    # Do not change the titles of the axes, because a rebuilt reference must have the same bytes as the shipped one.
    axes.set(xlim=(0, 1.05), ylim=(0, 1.05), xlabel="confidence", ylabel="share of labels that are right")
    return png(figure)


def confusion_picture(confusion: dict[str, Any]) -> bytes:
    """Draw a confusion matrix, and return it as PNG: true labels in rows, colours by the share of the row's cells."""
    labels, counts = confusion["labels"], np.asarray(confusion["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (L, L)
    longest = max(len(plain(label)) for label in labels)
    size = 2.5 + 0.32 * len(labels) + 0.08 * max(0, longest - 30)
    figure, axes = _figure(min(size, LARGEST))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # Inches per label, where a fifth of the picture is margin. Font sizes are in points; an inch has 72 points.
    inches = 0.8 * LARGEST / len(labels)
    step = max(1, math.ceil(SMALLEST_LABEL / inches))
    font: dict[str, Any] = {} if size <= LARGEST else {"fontsize": min(10.0, 72 * 0.8 * inches * step)}
    shown = range(0, len(labels), step)
    names = [plain(labels[index]) for index in shown]
    axes.set_xticks(shown, names, rotation=90, **font)
    axes.set_yticks(shown, names, **font)
    axes.set(xlabel="predicted", ylabel="true")
    # The squares of a larger matrix are too small for numbers.
    for row, column in np.argwhere(counts) if size <= LARGEST else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    return png(figure)


def plain(label: str) -> str:
    """Return a label that matplotlib can draw: on one line, of at most 60 characters, without formulas."""
    text = printable(label)
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return picture.getvalue()


def _figure(size: float) -> tuple[Figure, Axes]:
    with needs("matplotlib"):
        # Imported here, as it takes half a second and annotation does not need it.
        from matplotlib.figure import Figure
    figure = Figure(figsize=(size, size), layout="constrained")
    return figure, figure.add_subplot()

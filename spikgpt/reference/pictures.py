"""The pictures of a card, as PNG: the same bytes for the same figures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from spikgpt.errors import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def reliability_picture(bins: list[dict[str, Any]]) -> bytes:
    """Draw how often labels are right by confidence, from the ``confidence``, ``accuracy`` and ``cells`` of bins."""
    figure, axes = _figure(4.0)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    largest = max(row["cells"] for row in bins)
    for row in bins:
        size = 20 + 180 * (row["cells"] / largest) ** 0.5
        axes.scatter([row["confidence"]], [row["accuracy"]], s=size, color="tab:blue", alpha=0.7)
        axes.annotate(str(row["cells"]), (row["confidence"], row["accuracy"]), fontsize=7, ha="center", va="center")
    axes.set(xlim=(0, 1.05), ylim=(0, 1.05), xlabel="confidence", ylabel="share of labels that are right")
    return png(figure)


def confusion_picture(confusion: dict[str, Any]) -> bytes:
    """Draw a confusion matrix, each row as shares of its cells: a true label, with a column for each prediction."""
    labels, counts = confusion["labels"], confusion["counts"]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    figure, axes = _figure(2.5 + 0.32 * len(labels))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                colour = "white" if shares[row][column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return picture.getvalue()


def _figure(size: float) -> tuple[Figure, Axes]:
    """Return a square figure, its sides in inches, and its axes."""
    with needs("matplotlib"):
        # Here, as it takes half a second, and annotation does without.
        from matplotlib.figure import Figure
    figure = Figure(figsize=(size, size), layout="constrained")
    return figure, figure.add_subplot()

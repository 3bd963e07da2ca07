"""Axes to draw on, files of pictures, and texts that matplotlib can draw."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikgpt.errors import ConfigError, listed, needs, printable
from spikgpt.files import check_target, replacing
from spikgpt.reference.pictures import LONGEST, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

FORMATS = (".png", ".pdf", ".svg")
# Dots per inch of a saved picture.
DPI = 150
# Font size of legends in points. Space in inches for one letter, one row, and the coloured mark of a row.
FONT, LETTER, ROW, MARK = 8, 0.068, 0.155, 0.45
# Largest number of rows in a column of a legend. Largest number of letters of a name in a legend of several columns.
LEGEND_ROWS, SHORT = 30, 36


def new_axes(width: float, height: float, *, panels: int = 1) -> list[Axes]:
    """Make a figure with panels side by side, each ``width`` by ``height`` inches, and return the Axes of all."""
    with needs("matplotlib"):
        import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, panels, figsize=(width * panels, height), layout="constrained", squeeze=False)
    figure.patch.set_facecolor("white")
    return list(axes[0])


def check_axes(ax: Any) -> None:
    """Raise ConfigError unless ``ax`` is an Axes of matplotlib, or None."""
    if ax is None:
        return
    with needs("matplotlib"):
        from matplotlib.axes import Axes
    if not isinstance(ax, Axes):
        msg = f"ax is a {type(ax).__name__}; expected Axes of matplotlib, such as those of plt.subplots(), or None."
        raise ConfigError(msg)


def check_save(save: str | Path | None) -> None:
    """Raise ConfigError if the file ``save`` could not be written; called before the picture is drawn."""
    if save is None:
        return
    if not isinstance(save, str | Path) or Path(save).suffix.lower() not in FORMATS:
        msg = f"save is {str(save)!r}; expected the name of a file that ends with {listed(FORMATS)}."
        raise ConfigError(msg)
    check_target(Path(save))


def finish(ax: Axes, *, own: bool, show: bool | None, save: str | Path | None) -> None:
    """Write the figure to the file ``save``, if one is named, and show the figure if ``show`` is True.

    Parameters
    ----------
    own
        True if the figure was made for this picture.
    """
    figure = figure_of(ax)
    if save is not None:
        path = Path(save)
        with warnings.catch_warnings(), replacing(path) as temporary:
            # Characters that the font lacks are drawn as boxes, without a warning.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            kind = path.suffix.lower().removeprefix(".")
            figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches="tight")
    if not show and save is None:
        return
    import matplotlib.pyplot as plt

    if show:
        plt.show()
    elif own:
        # Figures of pyplot stay in memory until they are closed.
        plt.close(figure)


def figure_of(ax: Axes) -> Figure:
    """Return the figure that contains the axes; for axes in a subfigure, the whole figure."""
    figure: Any = ax.figure
    while figure.figure is not figure and figure.figure is not None:
        figure = figure.figure
    return figure  # type: ignore[no-any-return]


def shown(name: object, longest: int = LONGEST) -> str:
    """Return a name as text that matplotlib can draw, cut to at most ``longest`` letters."""
    text = printable(str(name)) or '""'
    text = plain(text if len(text) <= longest else f"{text[: longest - 3]}...")
    # A legend leaves out names that start with an underscore.
    return f" {text}" if text.startswith("_") else text


def legend_size(names: Sequence[str], rows: int = LEGEND_ROWS) -> tuple[int, int, float]:
    """Return the number of columns of a legend, the largest number of letters of a name, and the width in inches."""
    columns = max(1, math.ceil(len(names) / rows))
    longest = LONGEST if columns == 1 else SHORT
    letters = min(longest, max((len(printable(str(name))) for name in names), default=0))
    return columns, longest, columns * (MARK + LETTER * letters)


def add_legend(
    ax: Axes, names: Sequence[str], colors: Sequence[str], *, prefixes: Sequence[str] = (), rows: int = LEGEND_ROWS
) -> Legend:
    """Add a legend of colours to the right of the axes; ``prefixes`` stand before the names."""
    from matplotlib.lines import Line2D

    columns, longest, _ = legend_size(names, rows)
    texts = [
        f"{prefix}{shown(name, longest)}" for prefix, name in zip(prefixes or [""] * len(names), names, strict=True)
    ]
    dots = [Line2D([], [], marker="o", linestyle="", markersize=6, color=color) for color in colors]
    return ax.legend(
        dots,
        texts,
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        ncols=columns,
        frameon=False,
        fontsize=FONT,
        handletextpad=0.2,
        columnspacing=1.0,
        borderaxespad=0.2,
    )

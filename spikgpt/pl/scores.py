"""Histograms of the scores of cells, with the cut-offs for Unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from spikgpt.errors import ConfigError, listed
from spikgpt.options import KEY_ADDED
from spikgpt.pl.annotated import AnnotatedCells
from spikgpt.pl.canvas import FONT, check_axes, check_save, finish, new_axes
from spikgpt.scoring.annotation import CONFIDENCE, OOD_SCORE, TYPICALITY, Annotation
from spikgpt.scoring.palette import FIRST, UNKNOWN_COLOR
from spikgpt.types import UNKNOWN, Bools, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {
    CONFIDENCE: "confidence: probability of the best label",
    TYPICALITY: "typicality: conformal p-value",
    OOD_SCORE: "out-of-distribution score",
}
BINS = 40
# Width and height of a panel in inches.
WIDTH, HEIGHT = 3.6, 3.0
# Colours of cells with a label, and of a cut-off.
LABELLED_COLOR, CUTOFF_COLOR = FIRST[0], FIRST[1]


def confidence(
    adata: AnnData | Annotation,
    scores: str | Sequence[str] | None = None,
    *,
    key: str = KEY_ADDED,
    bins: int = BINS,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes]:
    """Draw histograms of confidence, typicality and OOD score, with the cut-offs that decide on Unknown.

    Unknown cells are grey. Empty cells are left out. A line marks the cut-off if the rule for Unknown has a cut-off on
    the score. By default, only the OOD score has a cut-off, at 0.

    Parameters
    ----------
    adata
        Annotated AnnData, or the result of :meth:`spikgpt.SpikGPT.annotate`.
    scores
        ``confidence``, ``typicality`` or ``ood_score``, or a list of several scores. None for all scores of the
        annotation.
    key
        Prefix of the columns of the annotation: its ``key_added``.
    bins
        Number of bins.
    ax
        Axes to draw on, for one score; None for a new figure.
    show, save
        As for :func:`spikgpt.pl.umap`.

    Returns
    -------
    Axes, or a list of Axes for several scores

    Raises
    ------
    ConfigError
        When a score is missing, an option is wrong, or matplotlib is not installed.
    """
    check_save(save)
    check_axes(ax)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        msg = f"bins is {bins!r}; expected a whole number of at least 1."
        raise ConfigError(msg)
    cells = AnnotatedCells.read(adata, key)
    present = [name for name in SCORES if f"{cells.key}_{name}" in cells.obs]
    names = present if scores is None else [scores] if isinstance(scores, str) else list(scores)
    if not names or (missing := [name for name in names if name not in present]):
        msg = f"scores is {scores!r}; expected one or more of the scores of this annotation: {listed(present)}."
        if names and missing and missing[0] in SCORES:
            msg += " A reference of an older format, or another rule for Unknown, gives fewer scores."
        raise ConfigError(msg)
    if ax is not None and len(names) > 1:
        msg = f"ax is one panel for {len(names)} scores; name one score, such as scores='confidence', or leave ax out."
        raise ConfigError(msg)
    panels = [ax] if ax is not None else new_axes(WIDTH, HEIGHT, panels=len(names))
    unknown = np.asarray(cells.texts("label", "color") == UNKNOWN)
    counted = cells.column(CONFIDENCE, "scores").to_numpy(dtype=np.float64) > 0
    for panel, name in zip(panels, names, strict=True):
        values = cells.column(name, "scores").to_numpy(dtype=np.float64)
        kept = counted & np.isfinite(values)
        _histogram(panel, values[kept], unknown[kept], bins, in_unit_range=name != OOD_SCORE)
        panel.set(xlabel=SCORES[name], ylabel="cells" if panel is panels[0] else "")
        cutoff = _cutoff(cells, adata, name)
        if cutoff is not None:
            panel.axvline(cutoff, color=CUTOFF_COLOR, linewidth=1.5, linestyle="--", label=f"cut-off {cutoff:.3g}")
        panel.legend(frameon=False, fontsize=FONT)
    finish(panels[0], own=ax is None, show=show, save=save)
    return panels[0] if len(panels) == 1 else panels


def _histogram(panel: Axes, values: Floats, unknown: Bools, bins: int, *, in_unit_range: bool) -> None:
    """Draw a stacked histogram of a score of labelled and of Unknown cells; ``unknown`` is True for the latter."""
    groups = {"labelled": (values[~unknown], LABELLED_COLOR), UNKNOWN: (values[unknown], UNKNOWN_COLOR)}
    limits = (0.0, 1.0) if in_unit_range else (float(values.min(initial=0)), float(values.max(initial=0)) + 1e-9)
    panel.hist(
        [group for group, _ in groups.values()],
        bins=bins,
        range=limits,
        stacked=True,
        color=[color for _, color in groups.values()],
        label=[f"{name}: {len(group):,}" for name, (group, _) in groups.items()],
    )
    panel.spines[["top", "right"]].set_visible(False)


def _cutoff(cells: AnnotatedCells, adata: AnnData | Annotation, name: str) -> float | None:
    """Return the cut-off for Unknown on a score; None if the rule for Unknown does not use the score."""
    if name == OOD_SCORE:
        return 0.0
    if name == TYPICALITY:
        return None
    threshold = float(cells.facts.get("threshold", np.nan))
    if np.isfinite(threshold):
        return threshold
    return adata.rule.least_confidence if isinstance(adata, Annotation) else None

"""Whether a reference suits a query at all: the same study, another one, or another tissue or species.

Cells of another study lie far from the reference, and so do those of another tissue. Three findings tell the two apart:

- the correlation of the differences between labels, query against reference: a shift that all labels share cancels;
- the mean contrast of the labels, see :mod:`spikgpt.scoring.contrasts`;
- marker genes: the level that the markers of their own label reach in the cells, and those of another label.

The similarity is correlation + 0.2 mean contrast + own markers - 0.8 other markers. It judges queries of one or two
cell types too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import sparse

from spikgpt.scoring.contrasts import marker_genes, marker_levels
from spikgpt.scoring.thresholds import ConformalScores
from spikgpt.types import Floats, Integers, Profiles

Kind = Literal["like the reference", "another study, labels hold", "another tissue or species, do not use"]
LIKE: Kind = "like the reference"
STUDY: Kind = "another study, labels hold"
OTHER: Kind = "another tissue or species, do not use"

# Labels of the query that are compared have so many cells, and such a share of them.
CELLS_TO_COMPARE, SHARE_TO_COMPARE = 10, 0.05
# Weights of the similarity, its least value in the same tissue and species, and the least correlation there, as which
# the correlation counts where no two labels can be compared. Own markers count as 1 at most.
CONTRAST_WEIGHT, OTHER_WEIGHT, LEAST_SIMILARITY, LEAST_CORRELATION = 0.2, 0.8, 1.0, 0.65
# A query is refused if other markers exceed own markers by more.
MOST_OF_OTHERS = 0.05
# Least mean contrast in the same tissue: where cells lie far and the correlation is below the first, and otherwise.
# Above the second correlation, a low contrast is that of a missing type which took over a label. For queries of three
# labels or more, and for those without a similarity.
LEAST_CONTRAST, LOST_CONTRAST, CORRELATIONS = 1.0, 0.6, (0.85, 0.9)
SEVERAL_LABELS = 3
# Least share of cells whose labels have enough marker genes.
LEAST_SHARE = 0.5
# Least loss of familiarity that counts as far, and the loss that refuses a query without similarity and correlation.
LEAST_SHIFT, LARGEST_SHIFT = 1.2, 3.0
# Share of the known cells below the limits, as a multiple of the promised one, that speaks for another study.
FARTHER = 2.0


@dataclass(frozen=True)
class Compatibility:
    """Whether a reference suits a query. ``evidence`` is a sentence, ``values`` are the numbers behind it by name."""

    kind: Kind
    evidence: str
    # Their last digits depend on the order of cells and on the engine.
    values: dict[str, float] = field(compare=False)

    @property
    def usable(self) -> bool:
        """Whether the labels can be used."""
        return self.kind != OTHER


@dataclass(frozen=True)
class Comparison:
    """How the labels of a query compare with the same labels of the reference; None where it cannot be told.

    Attributes
    ----------
    labels
        Number of labels with enough cells to be compared with each other.
    correlation
        Correlation of what sets these labels apart with what sets them apart in the reference. Genes count by their
        variance between the reference's labels, in units of that within; labels by the square root of their cells. Of
        three labels or more, the one that agrees least is left out: a type that the reference lacks hides among the
        cells of another. None for fewer than two labels.
    own_markers, other_markers
        The level of a marker is (q - o) / (p - o) of log expression: q in the cells, p in the label in the reference,
        and o the mean of the other labels there. It is 0 where the cells are like the other labels, and 1 where they
        are like the label. Means over markers, then over cells: of the cells' own label, and of the other label whose
        markers have the highest level.
    """

    labels: int
    correlation: float | None
    own_markers: float | None
    other_markers: float | None

    @classmethod
    def of(cls, logs: sparse.csr_matrix, best: Integers, profiles: Profiles) -> Comparison:
        """Compare the cells of a query.

        Parameters
        ----------
        logs
            Log expression of the query's cells, shape (n, G).
        best
            Index of the most probable label of each, shape (n,).
        """
        cells = np.bincount(best, minlength=len(profiles.means))
        enough = np.flatnonzero(cells >= CELLS_TO_COMPARE)
        # Summed in double precision, so that the order of cells does not show.
        parts = (logs[best == label].astype(np.float64) for label in enough)
        means = np.array([np.asarray(part.mean(axis=0)).ravel() for part in parts])  # (labels, G)
        own, other = _levels(means, cells[enough], enough, profiles)
        several = cells[enough] >= SHARE_TO_COMPARE * len(best)
        compared = enough[several]
        if len(compared) < 2:
            return cls(len(compared), None, own, other)
        query, counts = means[several], np.sqrt(cells[compared])
        weights = (profiles.means.std(axis=0) / profiles.spread) ** 2  # (G,)
        every = np.arange(len(compared))
        left = [np.delete(every, label) for label in every] if len(every) >= SEVERAL_LABELS else [every]
        reference = profiles.means[compared]
        correlation = max(_correlation(query[some], reference[some], counts[some], weights) for some in left)
        return cls(len(compared), correlation, own, other)


def _levels(means: Floats, cells: Integers, labels: Integers, profiles: Profiles) -> tuple[float | None, float | None]:
    """Return the levels of the markers of the cells' own label, and of the other label with the highest level.

    Both are means over labels, weighted by cells; see :func:`spikgpt.scoring.contrasts.marker_levels`.
    """
    expressed = marker_levels(means, cells, labels, profiles, marker_genes(profiles))
    places = np.arange(len(labels))
    own, others = expressed[places, labels], expressed.copy()
    others[places, labels] = np.nan
    known = ~np.isnan(own) & ~np.isnan(others).all(axis=1)
    if not len(labels) or cells[known].sum() < LEAST_SHARE * cells.sum():
        return None, None
    shares = cells[known] / cells[known].sum()
    return float(shares @ own[known]), float(shares @ np.nanmax(others[known], axis=1))


def _correlation(query: Floats, reference: Floats, counts: Floats, weights: Floats) -> float:
    """Return the correlation of the differences between labels, (labels, G), by weights of labels and of genes."""
    shares = counts / counts.sum()
    weighed = shares[:, None] * weights  # (labels, G)
    apart, expected = (means - shares @ means for means in (query, reference))
    lengths = (weighed * apart**2).sum() * (weighed * expected**2).sum()
    return float((weighed * apart * expected).sum() / np.sqrt(max(lengths, 1e-300)))


def shift(familiarity: Floats, best: Integers, held_out: ConformalScores) -> float:
    """Return by how much a query's cells are less familiar than held-out cells: the median over its labels."""
    cells = np.bincount(best)
    medians = [np.median(familiarity[best == label]) for label in np.flatnonzero(cells >= CELLS_TO_COMPARE)]
    return held_out.median - float(np.median(medians or familiarity))


def check_compatibility(
    comparison: Comparison | None, kept: float | None, shifted: float, farther: float | None, rate: float
) -> Compatibility:
    """Return the verdict on a query.

    Parameters
    ----------
    comparison
        How the labels compare with the reference's, where there is expression.
    kept
        What :func:`spikgpt.scoring.contrasts.mean_contrast` returns, where there is expression.
    shifted
        What :func:`shift` returns.
    farther, rate
        Estimate of the share of known cells below the limits, if there is one, and the promised share.
    """
    comparison = comparison or Comparison(labels=0, correlation=None, own_markers=None, other_markers=None)
    correlation, own, other = comparison.correlation, comparison.own_markers, comparison.other_markers
    similarity = None
    if kept is not None and own is not None and other is not None:
        similarity = LEAST_CORRELATION if correlation is None else correlation
        similarity += CONTRAST_WEIGHT * kept + min(own, 1.0) - OTHER_WEIGHT * other
    named = {"similarity": similarity, "correlation": correlation, "mean_contrast": kept, "familiarity_loss": shifted}
    named |= {"own_markers": own, "other_markers": other}
    values = {name: float(value) for name, value in named.items() if value is not None}
    if reason := _reason_to_refuse(comparison, similarity, kept, shifted):
        return Compatibility(OTHER, reason, values)
    told = "too few cell types to compare"
    if correlation is not None:
        told = f"what sets its cell types apart correlates by {correlation:.2f} with what does in the reference"
    if own is not None:
        told = f"{told}; {_level(own)}"
    if shifted <= 0 or (farther is not None and farther <= FARTHER * rate):
        return Compatibility(LIKE, f"its cells lie about as near to the labels as the reference's own; {told}", values)
    if farther is None:
        return Compatibility(LIKE, f"too few of its cells share a label to tell another study; {told}", values)
    return Compatibility(STUDY, f"its cells lie farther from the labels than the reference's own; {told}", values)


def _level(own: float) -> str:
    """Return a phrase on the markers of a query."""
    return f"the marker genes of its labels reach {100 * own:.0f}% of their level in the reference"


def _reason_to_refuse(
    comparison: Comparison, similarity: float | None, kept: float | None, shifted: float
) -> str | None:
    """Return the reason to refuse a query, or None."""
    same, correlation, far = "in the same tissue and species it is", comparison.correlation, shifted > LEAST_SHIFT
    own, other = comparison.own_markers, comparison.other_markers
    if own is not None and other is not None:
        if other - own > MOST_OF_OTHERS:
            return f"{_level(own)}, and those of another label {100 * other:.0f}%"
        if similarity is not None and similarity < LEAST_SIMILARITY:
            told = "" if correlation is None else f", and what sets the labels apart correlates by {correlation:.2f}"
            return f"{_level(own)}{told} (similarity {similarity:.2f}; {same} at least {LEAST_SIMILARITY:g})"
    if correlation is None:
        if similarity is None and shifted > LARGEST_SHIFT:
            apart = f"its cells lie {shifted:.1f} farther from the labels than the reference's own"
            return f"too few cell types to compare, and {apart}; {same} at most {LARGEST_SHIFT}"
        return None
    if similarity is not None and comparison.labels < SEVERAL_LABELS:
        return None
    if kept is not None and correlation < CORRELATIONS[1]:
        least = LEAST_CONTRAST if far and correlation < CORRELATIONS[0] else LOST_CONTRAST
        if kept < least:
            told = f"its labels do not keep what sets them apart in the reference (mean contrast {kept:.2f})"
            return f"{told}; {same} at least {least}"
    if correlation < LEAST_CORRELATION and far:
        told = f"what sets its cell types apart correlates by {correlation:.2f} with what does in the reference"
        return f"{told}; {same} at least {LEAST_CORRELATION}"
    return None

"""Whether a reference suits a query at all: the same study, another one, or another tissue or species.

Cells of another study lie far from the reference, and so do those of another tissue. Three findings tell the two apart:

- the correlation of what sets the query's labels apart with what sets the reference's labels apart, whatever the study
  does to all of them;
- the mean contrast of the labels, see :mod:`spikgpt.labels.ood`;
- marker genes: the part of the markers of their own label that cells express, and of those of another label.

Their sum is the similarity, by which also queries of one or two cell types are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from spikgpt.labels.thresholds import HeldOutScores
from spikgpt.types import Floats, Integers, Profiles

Kind = Literal["like the reference", "another study, labels hold", "another tissue or species, do not use"]
LIKE: Kind = "like the reference"
STUDY: Kind = "another study, labels hold"
OTHER: Kind = "another tissue or species, do not use"

# Labels of the query that are compared have so many cells, and such a share of them.
CELLS_TO_COMPARE, SHARE_TO_COMPARE = 10, 0.05
# The similarity is the correlation + 0.2 mean contrast + own markers - 0.8 other markers. It is at least 1 in the same
# tissue and species. The correlation counts as 0.65 where no two labels can be compared.
CONTRAST_WEIGHT, OTHER_WEIGHT, LEAST_SIMILARITY, LEAST_CORRELATION = 0.2, 0.8, 1.0, 0.65
# Cells of the same tissue do not express another label's markers by more than this beyond those of their own.
MOST_OF_OTHERS = 0.05
# Of queries of three labels or more: least mean contrast in the same tissue, where cells lie far and the correlation is
# below the first, and otherwise. Above the second correlation, a low contrast is that of a missing type which took over
# a label.
LEAST_CONTRAST, LOST_CONTRAST, CORRELATIONS = 1.0, 0.6, (0.85, 0.9)
SEVERAL_LABELS = 3
# Marker genes of a label, and the fewest that will do; the least difference from the other labels that the expression
# of one is held against; and the expression, of 10,000, of genes that a panel is told by.
MARKERS, LEAST_MARKERS, LEAST_DIFFERENCE, LEAST_EXPRESSED = 20, 10, 0.05, 0.1
# Another tissue takes at least so much from the familiarity of cells; a study at most so much, for where there is no
# similarity.
LEAST_SHIFT, LARGEST_SHIFT = 1.2, 3.0
# Share of the known cells below the limits, as a multiple of the promised one, that speaks for another study.
FARTHER = 2.0
# Added to the deviations within labels, as a share of their median.
WITHIN_FLOOR = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether a reference suits a query, the ``evidence`` in a sentence, and the ``values`` behind it by name."""

    kind: Kind
    evidence: str
    values: dict[str, float]

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
        Mean expression of the marker genes of a cell's own label, 0 for that of the other labels and 1 for that of the
        label in the reference; and the same of the label whose markers the cells express most beside their own.
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
        within = profiles.within + WITHIN_FLOOR * np.median(profiles.within)
        own, other = _markers(
            _of_all_genes(means, cells[enough], profiles.means[enough]), cells[enough], enough, profiles.means, within
        )
        several = cells[enough] >= SHARE_TO_COMPARE * len(best)
        compared = enough[several]
        if len(compared) < 2:
            return cls(len(compared), None, own, other)
        query, counts = means[several], np.sqrt(cells[compared])
        weights = (profiles.means.std(axis=0) / np.maximum(within, 1e-12)) ** 2  # (G,)
        every = np.arange(len(compared))
        left = [np.delete(every, label) for label in every] if len(every) >= SEVERAL_LABELS else [every]
        reference = profiles.means[compared]
        correlation = max(_correlation(query[some], reference[some], counts[some], weights) for some in left)
        return cls(len(compared), correlation, own, other)


def _of_all_genes(means: Floats, cells: Integers, reference: Floats) -> Floats:
    """Return mean log expression as if it were a part of that of all genes, (labels, G) to the same.

    Where a query holds a panel of genes, each makes up more of the total than in the reference. That is seen in most
    genes alike, and taken back; a query whose genes are lower is left as it is.
    """
    if not len(cells):
        return means
    found, expected = (np.expm1(cells @ values / cells.sum()) for values in (means, reference))  # (G,)
    both = (found > LEAST_EXPRESSED) & (expected > LEAST_EXPRESSED)
    excess = max(float(np.median(np.log(found[both] / expected[both]))), 0.0) if both.any() else 0.0
    return np.asarray(np.log1p(np.expm1(means) * np.exp(-excess)))


def _markers(
    means: Floats, cells: Integers, labels: Integers, reference: Floats, within: Floats
) -> tuple[float | None, float | None]:
    """Return how far cells express the markers of their own label, and of the other one that they express most.

    Both are means over labels, weighted by cells. ``means``, shape (labels, G), are those of a query's labels,
    ``reference``, shape (L, G), those of all labels there, and ``within``, shape (G,), the deviation within labels.
    """
    n_labels = len(reference)
    if not len(labels) or n_labels < 2:
        return None, None
    expressed = np.full((len(labels), n_labels), np.nan)
    for label in range(n_labels):
        others = np.delete(reference, label, axis=0)
        lead = (reference[label] - others.max(axis=0)) / np.maximum(within, 1e-12)
        genes = np.argsort(-lead, kind="stable")[:MARKERS]
        genes = genes[lead[genes] > 0]
        if len(genes) >= LEAST_MARKERS:
            base = others[:, genes].mean(axis=0)
            part = (means[:, genes] - base) / np.maximum(reference[label, genes] - base, LEAST_DIFFERENCE)
            expressed[:, label] = np.clip(part, -0.5, 1.5).mean(axis=1)
    places = np.arange(len(labels))
    own, others = expressed[places, labels], expressed.copy()
    others[places, labels] = np.nan
    known = ~np.isnan(own) & ~np.isnan(others).all(axis=1)
    if not known.any():
        return None, None
    shares = cells[known] / cells[known].sum()
    return min(float(shares @ own[known]), 1.0), float(shares @ np.nanmax(others[known], axis=1))


def _correlation(query: Floats, reference: Floats, counts: Floats, weights: Floats) -> float:
    """Return the correlation of the differences between labels, (labels, G), by weights of labels and of genes."""
    shares = counts / counts.sum()
    weighed = shares[:, None] * weights  # (labels, G)
    apart, expected = (means - shares @ means for means in (query, reference))
    lengths = (weighed * apart**2).sum() * (weighed * expected**2).sum()
    return float((weighed * apart * expected).sum() / np.sqrt(max(lengths, 1e-300)))


def shift(familiarity: Floats, best: Integers, held_out: HeldOutScores) -> float:
    """Return by how much a query's cells are less familiar than held-out cells: the median over its labels."""
    cells = np.bincount(best)
    medians = [np.median(familiarity[best == label]) for label in np.flatnonzero(cells >= CELLS_TO_COMPARE)]
    return held_out.median - float(np.median(medians or familiarity))


def judge(
    compared: Comparison | None, kept: float | None, shifted: float, farther: float | None, rate: float
) -> Verdict:
    """Return the verdict on a query.

    Parameters
    ----------
    compared
        How the labels compare with the reference's, where there is expression.
    kept
        What :func:`spikgpt.labels.ood.mean_contrast` returns, where there is expression.
    shifted
        What :func:`shift` returns.
    farther, rate
        Estimate of the share of known cells below the limits, if there is one, and the promised share.
    """
    found = compared or Comparison(0, None, None, None)
    correlation, own, other = found.correlation, found.own_markers, found.other_markers
    similarity = None
    if kept is not None and own is not None and other is not None:
        similarity = LEAST_CORRELATION if correlation is None else correlation
        similarity += CONTRAST_WEIGHT * kept + own - OTHER_WEIGHT * other
    named = {"similarity": similarity, "correlation": correlation, "mean_contrast": kept, "shift": shifted}
    named |= {"own_markers": own, "other_markers": other}
    values = {name: float(value) for name, value in named.items() if value is not None}
    if told := _strange(found, similarity, kept, shifted):
        return Verdict(OTHER, told, values)
    told = "no two of its cell types can be compared"
    if correlation is not None:
        told = f"what sets its cell types apart correlates by {correlation:.2f} with what does in the reference"
    if own is not None:
        told = f"{told}, and its cells express {100 * own:.0f}% of the marker genes of their labels"
    if shifted <= 0 or (farther is not None and farther <= FARTHER * rate):
        return Verdict(LIKE, f"its cells lie about as near to the labels as the reference's own; {told}", values)
    if farther is None:
        return Verdict(LIKE, f"too few of its cells share a label to tell another study; {told}", values)
    return Verdict(STUDY, f"its cells lie farther from the labels than the reference's own, but {told}", values)


def _strange(found: Comparison, similarity: float | None, kept: float | None, shifted: float) -> str | None:
    """Return what shows that a query is of another tissue or species, None where nothing does."""
    same, correlation, far = "in the same tissue and species it is", found.correlation, shifted > LEAST_SHIFT
    own, other = found.own_markers, found.other_markers
    if own is not None and other is not None:
        markers = f"its cells express {100 * own:.0f}% of the marker genes of their labels"
        if other - own > MOST_OF_OTHERS:
            return f"{markers}, and {100 * other:.0f}% of those of another label"
        if similarity is not None and similarity < LEAST_SIMILARITY:
            told = "" if correlation is None else f", and what sets the labels apart correlates by {correlation:.2f}"
            return f"{markers}{told} (similarity {similarity:.2f}; {same} at least {LEAST_SIMILARITY:g})"
    elif correlation is None and shifted > LARGEST_SHIFT:
        apart = f"its cells lie {shifted:.1f} farther from the labels than the reference's own"
        return f"no two of its cell types can be compared, and {apart}; {same} at most {LARGEST_SHIFT}"
    if correlation is None or found.labels < SEVERAL_LABELS:
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

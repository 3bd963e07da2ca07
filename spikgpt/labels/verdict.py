"""Whether a reference suits a query at all: the same study, another one, or another tissue or species.

Cells of another study lie far from the reference, and so do those of another tissue. What tells the two apart is how
the query's cells differ from each other: in the same tissue, what sets its labels apart is what sets the reference's
labels apart, whatever the study does to all of them.
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
# Least correlation of the differences between labels in the same tissue, where cells lie far from the reference, and
# least agreement of two scalings there, where no two labels can be compared.
LEAST_CORRELATION, LEAST_AGREEMENT = 0.65, 0.9
# Least mean contrast in the same tissue: where cells lie far and the correlation is below the first, and otherwise.
# Above the second correlation, a low contrast is that of a missing type which took over a label.
LEAST_CONTRAST, LOST_CONTRAST, CORRELATIONS = 1.0, 0.6, (0.85, 0.9)
LABELS_TO_LEAVE_ONE_OUT = 3
# Another tissue takes at least so much from the familiarity of cells; a study at most so much, for where no two labels
# can be compared.
LEAST_SHIFT, LARGEST_SHIFT = 1.2, 3.0
# Share of the known cells below the limits, as a multiple of the promised one, that speaks for another study.
FARTHER = 2.0
# Added to the deviations within labels, as a share of their median.
WITHIN_FLOOR = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether a reference suits a query, and the ``evidence`` in a sentence."""

    kind: Kind
    evidence: str

    @property
    def usable(self) -> bool:
        """Whether the labels can be used."""
        return self.kind != OTHER


def contrast(logs: sparse.csr_matrix, best: Integers, profiles: Profiles) -> float | None:
    """Return the correlation of what sets the labels of a query apart with what sets them apart in the reference.

    Genes count by their variance between the reference's labels, in units of that within; labels by the square root of
    their cells. Of three labels or more, the one that agrees least is left out: a type that the reference lacks hides
    among the cells of another.

    Parameters
    ----------
    logs
        Log expression of the query's cells, shape (n, G).
    best
        Index of the most probable label of each, shape (n,).

    Returns
    -------
    None where fewer than two labels have enough cells.
    """
    cells = np.bincount(best, minlength=len(profiles.means))
    compared = np.flatnonzero(cells >= max(CELLS_TO_COMPARE, SHARE_TO_COMPARE * len(best)))
    if len(compared) < 2:
        return None
    # Summed in double precision, so that the order of cells does not show.
    parts = (logs[best == label].astype(np.float64) for label in compared)
    query = np.stack([np.asarray(part.mean(axis=0)).ravel() for part in parts])
    counts = np.sqrt(cells[compared])
    within = profiles.within + WITHIN_FLOOR * np.median(profiles.within)
    weights = (profiles.means.std(axis=0) / np.maximum(within, 1e-12)) ** 2  # (G,)
    every = np.arange(len(compared))
    left = [np.delete(every, label) for label in every] if len(every) >= LABELS_TO_LEAVE_ONE_OUT else [every]
    reference = profiles.means[compared]
    return max(_correlation(query[some], reference[some], counts[some], weights) for some in left)


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
    correlation: float | None,
    kept: float | None,
    agreement: float | None,
    shifted: float,
    farther: float | None,
    rate: float,
) -> Verdict:
    """Return the verdict on a query.

    Parameters
    ----------
    correlation
        What :func:`contrast` returns.
    kept
        What :func:`spikgpt.labels.ood.mean_contrast` returns, where there is expression.
    agreement
        Share of cells whose label does not depend on how genes are scaled, if that was looked at.
    shifted
        What :func:`shift` returns.
    farther, rate
        Estimate of the share of known cells below the limits, if there is one, and the promised share.
    """
    far = shifted > LEAST_SHIFT
    if kept is not None and (correlation is None or correlation < CORRELATIONS[1]):
        least = LEAST_CONTRAST if far and correlation is not None and correlation < CORRELATIONS[0] else LOST_CONTRAST
        if kept < least:
            told = f"its labels do not keep what sets them apart in the reference (mean contrast {kept:.2f})"
            return Verdict(OTHER, f"{told}; in the same tissue and species it is at least {least}")
    if correlation is not None:
        told = f"what sets its cell types apart correlates by {correlation:.2f} with what does in the reference"
        if correlation < LEAST_CORRELATION and far:
            return Verdict(OTHER, f"{told}; in the same tissue and species it is at least {LEAST_CORRELATION}")
        held = f"but {told}"
    else:
        told = "no two of its cell types can be compared"
        if agreement is not None and agreement < LEAST_AGREEMENT and far:
            return Verdict(OTHER, f"{told}, and {100 * (1 - agreement):.0f}% of the labels depend on how it is scaled")
        if shifted > LARGEST_SHIFT:
            apart = f"its cells lie {shifted:.1f} farther from the labels than the reference's own"
            return Verdict(OTHER, f"{told}, and {apart}; in the same tissue and species it is at most {LARGEST_SHIFT}")
        held = f"by no more than another study may do; {told}"
    if shifted <= 0 or (farther is not None and farther <= FARTHER * rate):
        return Verdict(LIKE, f"its cells lie about as near to the labels as the reference's own; {told}")
    if farther is None:
        return Verdict(LIKE, f"too few of its cells share a label to tell another study; {told}")
    return Verdict(STUDY, f"its cells lie farther from the labels than the reference's own, {held}")

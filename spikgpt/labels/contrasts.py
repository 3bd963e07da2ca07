"""Does a label of a query look like the same label of the reference? Contrast and marker genes of labels.

A missing type is given some label of the reference. Two findings on the mean expression of the label's cells in a batch
tell a missing type from a known one:

- The contrast is C = -log(1.02 - r). r is the correlation of the label's mean profile with the reference's profile of
  the label, after the batch effect seen in the *other* labels is subtracted. A known type keeps what sets it apart.
- The level of marker genes is 1 where the cells express the markers of the label as it does in the reference, and 0
  where they do as the other labels do there. M is that level less the usual one, and at most 0: missing markers speak
  against a label, and the markers of a near type do not speak for it. The usual level is the mean of 0.7 and the median
  level of the other labels in the batch, as another chemistry shows all markers less. M is 0 without expression, or with
  fewer than ten marker genes.

The support of a label is C + 1.5 M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.types import Floats, Integers, Profiles

# A label needs so many cells in a batch for values of its own.
CELLS_FOR_LEVEL = 10
# Bounds the contrast.
LARGEST_CORRELATION = 1.02
# Added to deviations within labels, as a share of their median.
WITHIN_FLOOR = 0.1
# What a low level of marker genes takes from the contrast, and the level that is usual where the batch has no say.
MARKER_WEIGHT, USUAL_LEVEL = 1.5, 0.7
# Marker genes of a label, and the fewest that will do.
MARKERS, LEAST_MARKERS = 20, 10
# Least denominator of the level of a marker, and bounds of the level.
LEAST_DIFFERENCE, LEVELS = 0.05, (-0.5, 1.5)
# Least expression, of 10,000 counts, of the genes that a panel is found by.
LEAST_EXPRESSED = 0.1


@dataclass(frozen=True)
class LabelMeans:
    """Mean values of the cells of each label in each batch, shape (B, L, G), and their number, shape (B, L)."""

    means: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def fit(cls, values: sparse.csr_matrix | Floats, best: Integers, batches: Integers, labels: int) -> Self:
        """Average a sample of a query's cells.

        Parameters
        ----------
        values
            Log expression of k cells, or their vectors where there is no expression, shape (k, G).
        best, batches
            Index of the most probable label of each, and of its batch, shape (k,).
        labels
            Number of labels.
        """
        shape = int(batches.max(initial=0)) + 1, labels
        groups, size = batches * labels + best, shape[0] * labels
        picked = sparse.csr_matrix((np.ones(len(best)), (groups, np.arange(len(best)))), (size, len(best)))
        # Summed in double precision, so that the order of cells does not show.
        summed = picked @ values.astype(np.float64)
        means = np.asarray(summed.todense() if sparse.issparse(summed) else summed)  # (B L, G)
        counts = np.bincount(groups, minlength=size)
        means /= np.maximum(counts, 1)[:, None]
        return cls(means.reshape(*shape, -1), counts.reshape(shape))


def label_contrasts(labels: LabelMeans, profiles: Profiles) -> npt.NDArray[np.float64]:
    """Return the contrast C of each label in each batch, shape (B, L).

    Genes count by their variance between labels, in units of that within.
    """
    within = profiles.within + WITHIN_FLOOR * np.median(profiles.within)
    weights = profiles.means.var(axis=0) / np.maximum(within, 1e-12) ** 2  # (G,)
    roots = np.sqrt(weights / max(weights.sum(), 1e-300))
    middle = profiles.means.mean(axis=0)
    expected = (profiles.means - middle) * roots  # (L, G)
    contrasts = np.zeros(labels.counts.shape)
    for batch, (means, counts) in enumerate(zip(labels.means, labels.counts, strict=True)):
        seen = counts >= CELLS_FOR_LEVEL
        shifts = means[seen] - profiles.means[seen]
        # Of a label with few cells, all labels with enough of them are the others.
        effects = np.zeros_like(means) + (np.median(shifts, axis=0) if len(shifts) else 0.0)
        effects[seen] = _medians_of_others(shifts)
        own = (means - effects - middle) * roots  # (L, G)
        lengths = np.sqrt((own**2).sum(axis=1) * (expected**2).sum(axis=1) + 1e-12)
        contrasts[batch] = -np.log(LARGEST_CORRELATION - (own * expected).sum(axis=1) / lengths) * (counts > 0)
    return contrasts


def label_support(labels: LabelMeans, profiles: Profiles, contrasts: Floats) -> npt.NDArray[np.float64]:
    """Return contrast and marker genes of each label in each batch, C + 1.5 M, shape (B, L).

    ``labels`` are means of log expression. M is 0 for labels of few cells.
    """
    below = np.zeros(contrasts.shape)
    for batch, (means, counts) in enumerate(zip(labels.means, labels.counts, strict=True)):
        seen = np.flatnonzero(counts >= CELLS_FOR_LEVEL)
        levels = marker_levels(means[seen], counts[seen], seen, profiles)[np.arange(len(seen)), seen]
        seen, levels = seen[~np.isnan(levels)], np.minimum(levels[~np.isnan(levels)], 1)
        others = _medians_of_others(levels[:, None])[:, 0] if len(seen) > 1 else USUAL_LEVEL
        below[batch, seen] = np.minimum(levels - (USUAL_LEVEL + others) / 2, 0)
    return np.asarray(contrasts + MARKER_WEIGHT * below)


def mean_contrast(contrasts: Floats, best: Integers, batches: Integers) -> float | None:
    """Return the mean contrast of a sample's cells, each with that of its label in its batch.

    Labels of few cells in a batch are left out; None where no label has enough cells.
    """
    cells = np.zeros(contrasts.shape)
    np.add.at(cells, (batches, best), 1)
    cells[cells < CELLS_FOR_LEVEL] = 0
    return float((contrasts * cells).sum() / cells.sum()) if cells.any() else None


def marker_levels(means: Floats, cells: Integers, labels: Integers, profiles: Profiles) -> npt.NDArray[np.float64]:
    """Return the level of the marker genes of each label of the reference, shape (labels, L); NaN where there are few.

    The level of a marker is (q - o) / (p - o) of log expression: q in the cells, p in the label in the reference, and o
    the mean of the other labels there. It is averaged over the markers of a label.

    Parameters
    ----------
    means, cells
        Mean log expression of some labels of the query, shape (labels, G), and their number of cells, shape (labels,).
    labels
        Their index, shape (labels,).
    """
    reference, n_labels = profiles.means, len(profiles.means)
    expressed = np.full((len(labels), n_labels), np.nan)
    if not len(labels) or n_labels < 2:
        return expressed
    within = profiles.within + WITHIN_FLOOR * np.median(profiles.within)
    means = _without_panel_excess(means, cells, reference[labels])
    # Of the other labels: the largest value and the sum, without a copy of them for each label.
    second, first = np.partition(reference, -2, axis=0)[-2:]
    highest, total = reference.argmax(axis=0), reference.sum(axis=0)
    for label in range(n_labels):
        lead = (reference[label] - np.where(highest == label, second, first)) / np.maximum(within, 1e-12)
        genes = np.argsort(-lead, kind="stable")[:MARKERS]
        genes = genes[lead[genes] > 0]
        if len(genes) >= LEAST_MARKERS:
            base = (total[genes] - reference[label, genes]) / (n_labels - 1)
            part = (means[:, genes] - base) / np.maximum(reference[label, genes] - base, LEAST_DIFFERENCE)
            expressed[:, label] = np.clip(part, *LEVELS).mean(axis=1)
    return expressed


def _without_panel_excess(means: Floats, cells: Integers, reference: Floats) -> Floats:
    """Divide the expression of a panel of genes by its excess, (labels, G) to the same.

    In a panel each gene has a larger share of the total than in the reference. The excess is the median ratio of query
    to reference over genes; below 1 nothing is changed.
    """
    if not len(cells):
        return means
    found, expected = (np.expm1(cells @ values / cells.sum()) for values in (means, reference))  # (G,)
    both = (found > LEAST_EXPRESSED) & (expected > LEAST_EXPRESSED)
    excess = max(float(np.median(np.log(found[both] / expected[both]))), 0.0) if both.any() else 0.0
    return np.asarray(np.log1p(np.expm1(means) * np.exp(-excess)))


def _medians_of_others(rows: Floats) -> npt.NDArray[np.float64]:
    """Return for each row the median over all other rows, (n, G) to (n, G); 0 where there is no other row."""
    n = len(rows)
    if n < 2:
        return np.zeros_like(rows)
    ordered, ranks = np.sort(rows, axis=0), rows.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    # Without a value, each larger one moves down by one rank.
    pair = [np.take_along_axis(ordered, place + (ranks <= place), axis=0) for place in ((n - 2) // 2, (n - 1) // 2)]
    return np.asarray((pair[0] + pair[1]) / 2)

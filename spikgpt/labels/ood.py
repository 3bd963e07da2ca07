"""Out-of-distribution (OOD) rule: find cells of a type that is missing from the reference.

The typicality of a cell is its familiarity less its novelty. It is averaged with the typicality of the cell's
neighbours (20% its own, 80% the mean of theirs), twice. A batch effect lowers the typicality of all cells of a batch,
and of some labels more than of others. So a cell is compared with the cells of the same label in the same batch.

Let t be the typicality, h the median familiarity of the held-out cells of the label, and m the middle level of the
batch: the median over its labels of the 90% quantile of t - h / 2. With x = t - h / 2 - m, a cell of label l in batch b
is Unknown where

    x < max(e, 0) + 0.65 min(e, 0) + 0.6 n [e < 0] - 0.6 (C + 1.5 (M - 0.7)) - 1.0

- [e < 0] is 1 if e < 0, else 0.
- e: the 90% quantile of x in label and batch; 0 for labels of fewer than 10 cells. A low label has been changed by the
  study, or is a missing type.
- C: the contrast, -log(1.02 - r). r is the correlation of the label's mean profile with the reference's profile of the
  label, after the batch effect seen in the *other* labels is subtracted. A known type keeps what sets it apart; a
  missing type does not.
- M: the level of the label's marker genes, at most 1. It is 1 where the cells express them as the label does in the
  reference, and 0 where they do as the other labels do there. M is 0.7 without expression, or with fewer than ten
  marker genes.
- n: log(share of the label in the batch / share among held-out cells), between 0 and 1. A missing type makes the label
  that it is given larger than expected.

Where the cells of a label fall into two separate groups, e is that of the upper group. The lower group is Unknown as a
whole if its mean margin is small, and the upper group is known as a whole if its mean margin is not negative.
docs/tried.md has the tasks that the constants were chosen on, and the rules that were tried beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.labels.familiarity import Evidence
from spikgpt.types import Bools, Floats, Integers, Profiles, Rows

# A label needs so many cells in a batch for a level of its own.
CELLS_FOR_LEVEL = 10
# Novelty counts by how far it lies from that of most labels, above it up to this: a treatment too switches genes on.
LARGEST_NOVELTY = 0.5
# Share of a cell's typicality that its neighbours make up, each time.
NEIGHBOUR_SHARE = 0.8


# The level of a label is the typicality that this share of its cells does not exceed.
LEVEL = 0.9
# Share of a label's own held-out level in the reference that counts.
HELD_OUT_SHARE = 0.5
# Share of a label's low level that is put down to the batch effect.
FORGIVEN = 0.65
# Weight of the contrast, of the contrast's largest correlation, and of a label's excess of cells.
CONTRAST, LARGEST_CORRELATION, EXCESS = 0.6, 1.02, 0.6
# What the level of marker genes adds to the contrast, and the level that adds nothing.
MARKER_WEIGHT, USUAL_LEVEL = 1.5, 0.7
# The cut-off of a label without contrast.
BASE = 1.0
# Added to shares of cells before their ratio is taken, and to deviations within labels, as a share of their median.
SHARE_FLOOR, WITHIN_FLOOR = 0.01, 0.1
# Marker genes of a label, and the fewest that will do.
MARKERS, LEAST_MARKERS = 20, 10
# Least denominator of the level of a marker, and bounds of the level.
LEAST_DIFFERENCE, LEVELS = 0.05, (-0.5, 1.5)
# Least expression, of 10,000 counts, of the genes that a panel is found by.
LEAST_EXPRESSED = 0.1
# Two groups have so many cells each, and means so far apart, also as a multiple of the deviation within groups.
CELLS_OF_GROUP, APART, DEVIATIONS_APART = 15, 0.6, 4.0
# A lower group is Unknown as a whole where its mean margin is below this.
LEAST_MARGIN_OF_GROUP = 0.25
# Margin of the cells of a group that is judged as a whole against their own margin.
DECIDED = 1e-6


@dataclass(frozen=True)
class Typicality:
    """The typicality of a sample of k cells, among which the neighbours of any cell of the query are sought.

    Attributes
    ----------
    novelty
        Novelty of most labels in each batch, shape (B,); 0 without expression.
    alone, averaged
        The sample's typicality, and the same averaged with neighbours once, each of shape (k,).
    """

    novelty: npt.NDArray[np.float64]
    alone: npt.NDArray[np.float64]
    averaged: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, evidence: Evidence, best: Integers, batches: Integers, near: Rows) -> Self:
        """Learn from a sample of a query's cells.

        Parameters
        ----------
        evidence
            Their familiarity and novelty, each of shape (k,).
        best, batches
            Index of the most probable label and of the batch of each, shape (k,).
        near
            Positions of their neighbours in the sample, shape (k, neighbours).
        """
        novelty = np.zeros(int(batches.max(initial=0)) + 1)
        if evidence.novelty is not None:
            for batch in np.unique(batches):
                own = batches == batch
                novelty[batch] = _middle(evidence.novelty[own], best[own])
        alone = _typicality(evidence, novelty[batches])
        return cls(novelty, alone, _average(alone, alone, near))

    def of(self, evidence: Evidence, batches: Integers, near: Rows) -> npt.NDArray[np.float64]:
        """Return the typicality of cells, shape (n,).

        Parameters
        ----------
        evidence, batches, near
            As for :meth:`fit`; neighbours are among the sample.
        """
        once = _average(_typicality(evidence, self.novelty[batches]), self.alone, near)
        return _average(once, self.averaged, near)


@dataclass(frozen=True)
class OODRule:
    """Cut-offs on the typicality of the cells of one query, for B batches and L labels.

    Attributes
    ----------
    cutoffs
        The typicality below which a cell of a batch and a label is Unknown, shape (B, L).
    splits
        The typicality that separates two groups of cells of a batch and a label, shape (B, L); NaN for one group.
    lower_unknown, upper_known
        Whether the lower group is Unknown as a whole, and the upper one known as a whole, each of shape (B, L).
    """

    cutoffs: npt.NDArray[np.float64]
    splits: npt.NDArray[np.float64]
    lower_unknown: Bools
    upper_known: Bools

    @classmethod
    def fit(
        cls,
        typicality: Floats,
        best: Integers,
        batches: Integers,
        support: Floats,
        baselines: Floats,
        shares: Floats,
    ) -> Self:
        """Learn from a sample of a query's cells.

        Parameters
        ----------
        typicality, best, batches
            Typicality of each cell, index of its most probable label and of its batch, each of shape (k,).
        support
            Contrast and level of marker genes of each label in each batch, C + 1.5 (M - 0.7), shape (B, L).
        baselines, shares
            Median familiarity of the held-out cells of each label, and their share of all, each of shape (L,).
        """
        shape = support.shape
        cutoffs, splits = np.zeros(shape), np.full(shape, np.nan)
        lower_unknown, upper_known = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        own = HELD_OUT_SHARE * baselines
        for batch in range(shape[0]):
            x, labels = (typicality - own[best])[batches == batch], best[batches == batch]
            counts = np.bincount(labels, minlength=shape[1])
            enough = counts >= CELLS_FOR_LEVEL
            levels = [np.quantile(x[labels == label], LEVEL) for label in np.flatnonzero(enough)]
            middle = float(np.median(levels)) if levels else float(np.quantile(x, LEVEL)) if len(x) else 0.0
            expected = np.log((counts / max(counts.sum(), 1) + SHARE_FLOOR) / (shares + SHARE_FLOOR))
            excess = np.clip(expected, 0, 1)
            for label in range(shape[1]):
                of_label = x[labels == label]
                split = between_groups(of_label, least_gap=APART)
                upper = of_label[of_label > split] if np.isfinite(split) else of_label
                level = float(np.quantile(upper, LEVEL)) - middle if enough[label] else 0.0
                cut = max(level, 0) + FORGIVEN * min(level, 0) + EXCESS * excess[label] * (level < 0)
                cut += middle - CONTRAST * support[batch, label] - BASE
                cutoffs[batch, label] = own[label] + cut
                if np.isfinite(split):
                    lower = of_label <= split
                    splits[batch, label] = own[label] + split
                    lower_unknown[batch, label] = (of_label[lower] - cut).mean() < LEAST_MARGIN_OF_GROUP
                    upper_known[batch, label] = (upper - cut).mean() >= 0
        return cls(cutoffs, splits, lower_unknown, upper_known)

    def margins(self, typicality: Floats, best: Integers, batches: Integers) -> npt.NDArray[np.float64]:
        """Return how far the typicality of each cell lies above its cut-off, shape (n,): Unknown where below 0."""
        margins = typicality - self.cutoffs[batches, best]
        splits = self.splits[batches, best]
        lower = (typicality <= splits) & self.lower_unknown[batches, best]
        upper = (typicality > splits) & self.upper_known[batches, best]
        margins = np.where(lower, np.minimum(margins, -DECIDED), margins)
        return np.asarray(np.where(upper, np.maximum(margins, DECIDED), margins))


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
    """Return contrast and level of marker genes of each label in each batch, C + 1.5 (M - 0.7), shape (B, L).

    ``labels`` are means of log expression. Labels of few cells have the usual level.
    """
    levels = np.full(contrasts.shape, USUAL_LEVEL)
    for batch, (means, counts) in enumerate(zip(labels.means, labels.counts, strict=True)):
        seen = np.flatnonzero(counts >= CELLS_FOR_LEVEL)
        own = marker_levels(means[seen], counts[seen], seen, profiles)[np.arange(len(seen)), seen]
        levels[batch, seen] = np.where(np.isnan(own), USUAL_LEVEL, np.minimum(own, 1))
    return np.asarray(contrasts + MARKER_WEIGHT * (levels - USUAL_LEVEL))


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


def _typicality(evidence: Evidence, novelty: Floats) -> npt.NDArray[np.float64]:
    """Return familiarity less what is novel beyond the novelty of the cell's batch, shape (n,)."""
    if evidence.novelty is None:
        return evidence.familiarity
    return np.asarray(evidence.familiarity - np.minimum(evidence.novelty - novelty, LARGEST_NOVELTY))


def _average(own: Floats, sample: Floats, near: Rows) -> npt.NDArray[np.float64]:
    """Return the values of cells, averaged with those of their neighbours in the sample."""
    if not near.shape[1]:
        return np.asarray(own)
    return np.asarray((1 - NEIGHBOUR_SHARE) * own + NEIGHBOUR_SHARE * sample[near].mean(axis=1))


def _middle(values: Floats, best: Integers) -> float:
    """Return the median over labels of their median: each label with enough cells has one vote."""
    enough = np.flatnonzero(np.bincount(best) >= CELLS_FOR_LEVEL)
    return float(np.median([np.median(values[best == label]) for label in enough] if len(enough) else values))


def _medians_of_others(rows: Floats) -> npt.NDArray[np.float64]:
    """Return for each row the median over all other rows, (n, G) to (n, G); 0 where there is no other row."""
    n = len(rows)
    if n < 2:
        return np.zeros_like(rows)
    ordered, ranks = np.sort(rows, axis=0), rows.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    # Without a value, each larger one moves down by one rank.
    pair = [np.take_along_axis(ordered, place + (ranks <= place), axis=0) for place in ((n - 2) // 2, (n - 1) // 2)]
    return np.asarray((pair[0] + pair[1]) / 2)


def between_groups(values: Floats, *, least_gap: float) -> float:
    """Return where values fall into two separate groups, by the split of least variance within (Otsu, 1979), or NaN.

    The means of the groups are ``least_gap`` apart at least, and a multiple of the deviation within groups.
    """
    n = len(values)
    if n < 2 * CELLS_OF_GROUP:
        return np.nan
    ordered, below = np.sort(values), np.arange(1, n)
    sums = np.cumsum(ordered)
    gaps = (sums[-1] - sums[:-1]) / (n - below) - sums[:-1] / below
    between = gaps**2 * below * (n - below) / n**2
    between[(below < CELLS_OF_GROUP) | (n - below < CELLS_OF_GROUP)] = -1
    best = int(between.argmax())
    within = np.sqrt(max(float(ordered.var() - between[best]), 1e-9))
    if gaps[best] < max(least_gap, DEVIATIONS_APART * within):
        return np.nan
    return float(ordered[best] + ordered[best + 1]) / 2

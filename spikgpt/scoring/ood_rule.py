"""Out-of-distribution (OOD) rule: find cells of a type that is missing from the reference.

The typicality of a cell is its familiarity less its novelty. It is averaged with the typicality of the cell's
neighbours (20% its own, 80% the mean of theirs), twice. A batch effect lowers the typicality of all cells of a batch,
and of some labels more than of others. So a cell is compared with the cells of the same label in the same batch.

Let t be the typicality, h the median familiarity of the held-out cells of the label, and m the middle level of the
batch: the median over its labels of the 90% quantile of t - h / 2. With x = t - h / 2 - m, a cell of label l in batch b
is Unknown where

    x < max(e, 0) + 0.65 min(e, 0) + 0.6 n [e < 0] - 0.6 (C + 1.5 M + 0.4 P) - 1.0

- [e < 0] is 1 if e < 0, else 0.
- e: the 90% quantile of x in label and batch; 0 for labels of fewer than 10 cells. A low label has been changed by the
  study, or is a missing type.
- C: the contrast of the label, which a known type keeps, and a missing type does not; see
  :mod:`spikgpt.scoring.contrasts`.
- M: how far the level of the label's marker genes lies below the usual level, at most 0; see the same module. A missing
  type lacks the markers of the label that it is given.
- P: 1 if, in another batch, most cells of the label are known, and (known cells / cells of the batch) there is at least
  2/3 of (cells of the label / cells of the batch) here; else 0. Both batches need 10 cells of the label.
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

from spikgpt.scoring.contrasts import CELLS_FOR_LEVEL
from spikgpt.scoring.ood_scorer import OODEvidence
from spikgpt.types import Bools, Floats, Integers, Rows

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
# Weights of the support of a label, and of its excess of cells.
SUPPORT, EXCESS = 0.6, 0.6
# Weight of P, and the least share in another batch, as a part of the share here.
PRESENT_WEIGHT, PRESENT_SHARE = 0.4, 2 / 3
# The cut-off of a label without contrast.
BASE = 1.0
# Added to shares of cells before their ratio is taken.
SHARE_FLOOR = 0.01
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
    def fit(cls, evidence: OODEvidence, best: Integers, batches: Integers, near: Rows) -> Self:
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

    def of(self, evidence: OODEvidence, batches: Integers, near: Rows) -> npt.NDArray[np.float64]:
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
            Contrast and marker genes of each label in each batch, C + 1.5 M, shape (B, L).
        baselines, shares
            Median familiarity of the held-out cells of each label, and their share of all, each of shape (L,).
        """
        cells = typicality, best, batches
        rule = cls._with_support(*cells, support, baselines, shares)
        if len(support) == 1:
            return rule
        present = _present_elsewhere(rule.margins(*cells) >= 0, best, batches, support.shape)
        return cls._with_support(*cells, support + PRESENT_WEIGHT * present, baselines, shares)

    @classmethod
    def _with_support(
        cls, typicality: Floats, best: Integers, batches: Integers, support: Floats, baselines: Floats, shares: Floats
    ) -> Self:
        """Return the rule for a support that already counts P, the presence in other batches."""
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
                cut += middle - SUPPORT * support[batch, label] - BASE
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


def _present_elsewhere(known: Bools, best: Integers, batches: Integers, shape: tuple[int, ...]) -> Bools:
    """Return for each batch and label, shape (B, L), whether another batch has the label too.

    Most of its cells are known there, and their share of that batch is at least 2/3 of the label's share here.
    """
    cells, of_known = np.zeros(shape), np.zeros(shape)
    np.add.at(cells, (batches, best), 1)
    np.add.at(of_known, (batches, best), known)
    totals = np.maximum(cells.sum(axis=1, keepdims=True), 1)
    # The share of known cells, where these are most of the label's.
    there = np.where((cells >= CELLS_FOR_LEVEL) & (of_known > cells / 2), of_known / totals, 0)
    largest = np.stack([np.delete(there, batch, axis=0).max(axis=0) for batch in range(shape[0])])
    return np.asarray((cells >= CELLS_FOR_LEVEL) & (largest > 0) & (largest >= PRESENT_SHARE * cells / totals))


def _typicality(evidence: OODEvidence, novelty: Floats) -> npt.NDArray[np.float64]:
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


def between_groups(values: Floats, *, least_gap: float) -> float:
    """Return the threshold of Otsu (1979) between two separate groups of values, or NaN if the values form one group.

    The means of the groups are ``least_gap`` apart at least, and a multiple of the deviation within groups.
    """
    n = len(values)
    if n < 2 * CELLS_OF_GROUP:
        return np.nan
    ordered, below = np.sort(values), np.arange(1, n)
    sums = np.cumsum(ordered)
    gaps = (sums[-1] - sums[:-1]) / (n - below) - sums[:-1] / below
    between = gaps**2 * below * (n - below) / n**2
    # Equal values are not split.
    between[(below < CELLS_OF_GROUP) | (n - below < CELLS_OF_GROUP) | (ordered[1:] == ordered[:-1])] = -1
    best = int(between.argmax())
    within = np.sqrt(max(float(ordered.var() - between[best]), 1e-9))
    if between[best] < 0 or gaps[best] < max(least_gap, DEVIATIONS_APART * within):
        return np.nan
    return float(ordered[best] + ordered[best + 1]) / 2

"""Out-of-distribution (OOD) rule: find cells of a type that is missing from the reference.

A batch effect lowers the scores of all cells of a batch, and of some labels more than of others. So a cell is compared
with the cells of the same label in the same batch. A cell is Unknown if

    x < max(q, 0) + 0.65 min(q, 0) + 0.6 n [q < 0] - 0.6 (C + 1.5 M + 0.4 P) - 1.0

Here x is the averaged score of the cell, relative to the scores of the labels in the batch. The other terms are of the
label of the cell: its level q, excess of cells n, contrast C, marker deficit M, and presence P in another batch.
docs/concepts/formulas.md defines all terms.

docs/development/tried.md lists the tasks that the constants were chosen on, and the rules that did worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.constants import CONSTANTS
from spikgpt.scoring.label_match import LabelMatch
from spikgpt.scoring.ood_scorer import OODEvidence
from spikgpt.types import Bools, Floats, Integers, Rows

RULE, LEAST_CELLS = CONSTANTS.ood_rule, CONSTANTS.label_match.least_cells
# Distance from the cut-off that a cell gets if its group decides whether it is Unknown, against the cell's own score.
DECIDED = 1e-6


@dataclass(frozen=True)
class ScoreAverager:
    """Averages the score of each cell with the scores of its neighbours in a sample of k cells.

    Attributes
    ----------
    median_excess
        Median marker excess of the labels of each batch, shape (B,); 0 without expression.
    scores, averaged
        Scores of the sample, and scores of the sample after one average with the neighbours, each of shape (k,).
    """

    median_excess: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    averaged: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, evidence: OODEvidence, best: Integers, batches: Integers, neighbours: Rows) -> Self:
        """Fit the averager to a sample of a query's cells.

        Parameters
        ----------
        evidence
            ID score and marker excess of the sample, each of shape (k,).
        best, batches
            Index of the most probable label and of the batch of each cell, each of shape (k,).
        neighbours
            Positions of the neighbours of each cell in the sample, shape (k, 14).
        """
        excess = np.zeros(int(batches.max(initial=0)) + 1)
        if evidence.marker_excess is not None:
            for batch in np.unique(batches):
                own = batches == batch
                excess[batch] = _median_over_labels(evidence.marker_excess[own], best[own])
        return cls.from_scores(excess, _scores(evidence, excess[batches]), neighbours)

    @classmethod
    def from_scores(
        cls, median_excess: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], neighbours: Rows
    ) -> Self:
        """Return an averager from the scores of a sample; parameters as for the attributes and :meth:`fit`."""
        return cls(median_excess, scores, _average(scores, scores, neighbours))

    def average_sample(self, neighbours: Rows) -> npt.NDArray[np.float64]:
        """Return the scores of the sample after two averages with the neighbours, shape (k,)."""
        return _average(self.averaged, self.averaged, neighbours)

    def average(self, evidence: OODEvidence, batches: Integers, neighbours: Rows) -> npt.NDArray[np.float64]:
        """Return the scores of n cells after two averages, shape (n,); parameters as for :meth:`fit`."""
        once = _average(_scores(evidence, self.median_excess[batches]), self.scores, neighbours)
        return _average(once, self.averaged, neighbours)


@dataclass(frozen=True)
class OODRule:
    """Cut-offs on the averaged scores of the cells of one query, for B batches and L labels.

    Attributes
    ----------
    cutoffs
        Score below which a cell of a batch and a label is Unknown, shape (B, L).
    splits
        Score that separates the cells of a batch and a label into two groups, shape (B, L); NaN if there is one group.
    lower_unknown, upper_known
        True where the lower group is Unknown as a whole, and where the upper group is known as a whole, shape (B, L).
    """

    cutoffs: npt.NDArray[np.float64]
    splits: npt.NDArray[np.float64]
    lower_unknown: Bools
    upper_known: Bools

    @classmethod
    def fit(
        cls,
        scores: Floats,
        best: Integers,
        batches: Integers,
        match: LabelMatch,
        held_out_medians: Floats,
        held_out_shares: Floats,
    ) -> Self:
        """Fit the rule to a sample of a query's cells.

        Parameters
        ----------
        scores, best, batches
            Averaged score, index of the most probable label and index of the batch of each cell, each of shape (k,).
        match
            Agreement of the labels with the reference, which gives C + 1.5 M.
        held_out_medians, held_out_shares
            Median ID score of the held-out cells of each label, and share of these cells among all held-out cells, each
            of shape (L,).
        """
        cells = scores, best, batches
        rule = cls._with_match(*cells, match.score, held_out_medians, held_out_shares)
        if len(match.score) == 1:
            return rule
        present = _present_elsewhere(rule.margins(*cells) >= 0, best, batches, match.cells)
        score = match.score + RULE.present_weight * present
        return cls._with_match(*cells, score, held_out_medians, held_out_shares)

    @classmethod
    def _with_match(
        cls, scores: Floats, best: Integers, batches: Integers, match: Floats, medians: Floats, expected: Floats
    ) -> Self:
        """Fit the rule with the match C + 1.5 M + 0.4 P of each label in each batch, shape (B, L)."""
        cutoffs, splits = np.zeros(match.shape), np.full(match.shape, np.nan)
        lower_unknown, upper_known = np.zeros(match.shape, dtype=bool), np.zeros(match.shape, dtype=bool)
        own = RULE.held_out_share * medians
        n_batches, n_labels = match.shape
        for batch in range(n_batches):
            x, labels = (scores - own[best])[batches == batch], best[batches == batch]
            counts = np.bincount(labels, minlength=n_labels)
            enough = counts >= LEAST_CELLS
            quantiles = [np.quantile(x[labels == label], RULE.quantile) for label in np.flatnonzero(enough)]
            middle = (
                float(np.median(quantiles)) if quantiles else float(np.quantile(x, RULE.quantile)) if len(x) else 0.0
            )
            shares = counts / max(counts.sum(), 1)
            excess = np.clip(np.log((shares + RULE.share_floor) / (expected + RULE.share_floor)), 0, 1)
            for label in range(n_labels):
                of_label = x[labels == label]
                split = split_point(of_label, least_gap=RULE.group_gap)
                upper = of_label[of_label > split] if np.isfinite(split) else of_label
                q = float(np.quantile(upper, RULE.quantile)) - middle if enough[label] else 0.0
                cut = max(q, 0) + RULE.low_share * min(q, 0) + RULE.excess_weight * excess[label] * (q < 0)
                cut += middle - RULE.match_weight * match[batch, label] - RULE.offset
                cutoffs[batch, label] = own[label] + cut
                if np.isfinite(split):
                    lower = of_label <= split
                    splits[batch, label] = own[label] + split
                    lower_unknown[batch, label] = (of_label[lower] - cut).mean() < RULE.group_margin
                    upper_known[batch, label] = (upper - cut).mean() >= 0
        return cls(cutoffs, splits, lower_unknown, upper_known)

    def margins(self, scores: Floats, best: Integers, batches: Integers) -> npt.NDArray[np.float64]:
        """Return each cell's averaged score minus its cut-off, shape (n,); a cell with a negative margin is Unknown.

        If a group is Unknown or known as a whole, all margins of its cells are below or above 0.
        """
        margins = scores - self.cutoffs[batches, best]
        splits = self.splits[batches, best]
        lower = (scores <= splits) & self.lower_unknown[batches, best]
        upper = (scores > splits) & self.upper_known[batches, best]
        margins = np.where(lower, np.minimum(margins, -DECIDED), margins)
        return np.asarray(np.where(upper, np.maximum(margins, DECIDED), margins))


def _present_elsewhere(known: Bools, best: Integers, batches: Integers, cells: Integers) -> Bools:
    """Return P, shape (B, L): True for a label of a batch that is also frequent and mostly known in another batch.

    ``known``, shape (n,), is True for known cells. ``cells``, shape (B, L), is the number of cells.
    """
    of_known = np.zeros(cells.shape)
    np.add.at(of_known, (batches, best), known)
    totals = np.maximum(cells.sum(axis=1, keepdims=True), 1)
    # Known cells of a label as a share of the cells of the batch; 0 for rare labels, and for mostly Unknown labels.
    shares = np.where((cells >= LEAST_CELLS) & (of_known > cells / 2), of_known / totals, 0)
    largest = np.stack([np.delete(shares, batch, axis=0).max(axis=0) for batch in range(len(cells))])
    return np.asarray((cells >= LEAST_CELLS) & (largest > 0) & (largest >= RULE.present_share * cells / totals))


def _scores(evidence: OODEvidence, median_excess: Floats) -> npt.NDArray[np.float64]:
    """Return each cell's ID score minus its marker excess above the median of its batch, shape (n,)."""
    if evidence.marker_excess is None:
        return evidence.id_score
    # A treatment can also switch genes on, so the excess is bounded.
    return np.asarray(evidence.id_score - np.minimum(evidence.marker_excess - median_excess, RULE.largest_excess))


def _average(own: Floats, sample: Floats, neighbours: Rows) -> npt.NDArray[np.float64]:
    """Return the weighted mean of each cell's value and the mean value of its neighbours in the sample, shape (n,)."""
    if not neighbours.shape[1]:
        return np.asarray(own)
    share = RULE.neighbour_share
    return np.asarray((1 - share) * own + share * sample[neighbours].mean(axis=1))


def _median_over_labels(values: Floats, best: Integers) -> float:
    """Return the median over labels of their median values; the median of all cells if no label has enough cells."""
    enough = np.flatnonzero(np.bincount(best) >= LEAST_CELLS)
    return float(np.median([np.median(values[best == label]) for label in enough] if len(enough) else values))


def split_point(values: Floats, *, least_gap: float) -> float:
    """Return the threshold of Otsu (1979) between two separate groups of values, or NaN if the values form one group.

    The means of the groups must differ by at least ``least_gap``, and by at least a multiple of the standard deviation
    within groups.
    """
    n, size = len(values), RULE.group_cells
    if n < 2 * size:
        return np.nan
    ordered, below = np.sort(values), np.arange(1, n)
    sums = np.cumsum(ordered)
    gaps = (sums[-1] - sums[:-1]) / (n - below) - sums[:-1] / below
    between = gaps**2 * below * (n - below) / n**2
    # A split may neither leave a group with too few cells nor separate equal values.
    between[(below < size) | (n - below < size) | (ordered[1:] == ordered[:-1])] = -1
    best = int(between.argmax())
    within = np.sqrt(max(float(ordered.var() - between[best]), 1e-9))
    if between[best] < 0 or gaps[best] < max(least_gap, RULE.group_deviations * within):
        return np.nan
    return float(ordered[best] + ordered[best + 1]) / 2

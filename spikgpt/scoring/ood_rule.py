"""Out-of-distribution (OOD) rule: find cells of a type that is missing from the reference.

A batch effect lowers the scores of all cells of a batch, and of some labels more than of others. So a cell is compared
with the cells of the same label in the same batch. docs/concepts/formulas.md derives all terms of the rule:

    x < max(q, 0) + 0.65 min(q, 0) + 0.6 n [q < 0] - 0.6 (C + 1.5 M + 0.4 P) - 1.0

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
# Margin of cells that are Unknown, or known, because of their group and against their own score.
DECIDED = 1e-6


@dataclass(frozen=True)
class ScoreAverager:
    """Averages the scores of cells with those of their neighbours in a sample of k cells.

    Attributes
    ----------
    median_excess
        Median marker excess of each batch, over labels, shape (B,); 0 without expression.
    scores, averaged
        Scores of the sample, and the same averaged once, each of shape (k,).
    """

    median_excess: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    averaged: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, evidence: OODEvidence, best: Integers, batches: Integers, neighbours: Rows) -> Self:
        """Fit to a sample of a query's cells.

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
        """Average the scores of the sample once; parameters as for the attributes and :meth:`fit`."""
        return cls(median_excess, scores, _average(scores, scores, neighbours))

    def average_sample(self, neighbours: Rows) -> npt.NDArray[np.float64]:
        """Return the averaged scores of the sample, shape (k,)."""
        return _average(self.averaged, self.averaged, neighbours)

    def average(self, evidence: OODEvidence, batches: Integers, neighbours: Rows) -> npt.NDArray[np.float64]:
        """Return the averaged scores of n cells, shape (n,); parameters as for :meth:`fit`."""
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
        Score that separates two groups of cells of a batch and a label, shape (B, L); NaN for one group.
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
        """Fit to a sample of a query's cells.

        Parameters
        ----------
        scores, best, batches
            Averaged score, index of the most probable label and index of the batch of each cell, each of shape (k,).
        match
            Agreement of the labels with the reference, which gives C + 1.5 M.
        held_out_medians, held_out_shares
            Median ID score of the held-out cells of each label, and their share of all, each of shape (L,).
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
        """Return the rule for a match of labels in batches, shape (B, L), that already includes P."""
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
        """Return the distance of each cell's averaged score above its cut-off, shape (n,): Unknown where below 0."""
        margins = scores - self.cutoffs[batches, best]
        splits = self.splits[batches, best]
        lower = (scores <= splits) & self.lower_unknown[batches, best]
        upper = (scores > splits) & self.upper_known[batches, best]
        margins = np.where(lower, np.minimum(margins, -DECIDED), margins)
        return np.asarray(np.where(upper, np.maximum(margins, DECIDED), margins))


def _present_elsewhere(known: Bools, best: Integers, batches: Integers, cells: Integers) -> Bools:
    """Return P, the presence of each label of each batch in another batch, shape (B, L)."""
    of_known = np.zeros(cells.shape)
    np.add.at(of_known, (batches, best), known)
    totals = np.maximum(cells.sum(axis=1, keepdims=True), 1)
    # Share of known cells of labels whose cells are mostly known; 0 for other labels.
    shares = np.where((cells >= LEAST_CELLS) & (of_known > cells / 2), of_known / totals, 0)
    largest = np.stack([np.delete(shares, batch, axis=0).max(axis=0) for batch in range(len(cells))])
    return np.asarray((cells >= LEAST_CELLS) & (largest > 0) & (largest >= RULE.present_share * cells / totals))


def _scores(evidence: OODEvidence, median_excess: Floats) -> npt.NDArray[np.float64]:
    """Return the ID score minus the marker excess above the median of the cell's batch, shape (n,)."""
    if evidence.marker_excess is None:
        return evidence.id_score
    # A treatment can also switch genes on, so the excess is bounded.
    return np.asarray(evidence.id_score - np.minimum(evidence.marker_excess - median_excess, RULE.largest_excess))


def _average(own: Floats, sample: Floats, neighbours: Rows) -> npt.NDArray[np.float64]:
    """Return the values of cells, averaged with those of their neighbours in the sample, shape (n,)."""
    if not neighbours.shape[1]:
        return np.asarray(own)
    share = RULE.neighbour_share
    return np.asarray((1 - share) * own + share * sample[neighbours].mean(axis=1))


def _median_over_labels(values: Floats, best: Integers) -> float:
    """Return the median of the medians of the labels with enough cells; the median of all cells if there are none."""
    enough = np.flatnonzero(np.bincount(best) >= LEAST_CELLS)
    return float(np.median([np.median(values[best == label]) for label in enough] if len(enough) else values))


def split_point(values: Floats, *, least_gap: float) -> float:
    """Return the threshold of Otsu (1979) between two separate groups of values, or NaN if the values form one group.

    The means of the groups must differ by ``least_gap``, and by a multiple of the deviation within groups.
    """
    n, size = len(values), RULE.group_cells
    if n < 2 * size:
        return np.nan
    ordered, below = np.sort(values), np.arange(1, n)
    sums = np.cumsum(ordered)
    gaps = (sums[-1] - sums[:-1]) / (n - below) - sums[:-1] / below
    between = gaps**2 * below * (n - below) / n**2
    # Equal values are not split.
    between[(below < size) | (n - below < size) | (ordered[1:] == ordered[:-1])] = -1
    best = int(between.argmax())
    within = np.sqrt(max(float(ordered.var() - between[best]), 1e-9))
    if between[best] < 0 or gaps[best] < max(least_gap, RULE.group_deviations * within):
        return np.nan
    return float(ordered[best] + ordered[best + 1]) / 2

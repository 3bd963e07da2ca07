"""Rejection: the cut-offs for Unknown are fitted to a sample of a query's cells, and applied to all cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spikgpt.constants import CONSTANTS
from spikgpt.errors import ConfigError
from spikgpt.scoring.label_match import LabelMatch
from spikgpt.scoring.ood_rule import OODRule
from spikgpt.scoring.thresholds import Calibration, Thresholds
from spikgpt.types import Bools, Floats, Integers, Rows

REJECTION = CONSTANTS.rejection


class RejectionOptions(Protocol):
    """Options of :class:`spikgpt.options.AnnotateOptions` that select the rule for Unknown."""

    @property
    def unknown_rate(self) -> float | None:
        """Largest share of known cells that may be Unknown; 0 for no rejection, None for the default rule."""

    @property
    def threshold(self) -> float | None:
        """Confidence below which a cell is Unknown, in place of all other rules."""

    @property
    def reference_cutoff(self) -> bool:
        """True for the cut-offs from held-out cells of the reference alone, without the OOD rule."""


@dataclass(frozen=True)
class CellScores:
    """Scores of n cells.

    Attributes
    ----------
    probabilities
        Label probabilities, shape (n, L).
    batches
        Index of the batch of each cell, shape (n,).
    id_score, averaged_score
        In-distribution score (:mod:`spikgpt.scoring.ood_scorer`), and the averaged score of
        :mod:`spikgpt.scoring.ood_rule`, each of shape (n,). None for a reference of format 1.
    clusters
        Index of the fine cluster of each cell, shape (n,); None without ``majority_vote``.
    nearest
        Positions, in the query's sample, of the 3 sample cells nearest to each cell, shape (n, 3). A cell of the sample
        has its own position three times. Positions are -1 if no neighbours were searched. None for the scores of the
        sample.
    """

    probabilities: Floats
    batches: Integers
    id_score: npt.NDArray[np.float64] | None = None
    averaged_score: npt.NDArray[np.float64] | None = None
    clusters: npt.NDArray[np.int32] | None = None
    nearest: npt.NDArray[np.int32] | None = None

    def part(self, cells: Rows) -> CellScores:
        """Return the scores of the cells at the positions ``cells``."""
        arrays: dict[str, Any] = {name: values[cells] for name, values in vars(self).items() if values is not None}
        return CellScores(**arrays)


@dataclass(frozen=True)
class RejectionRule:
    """Rule for Unknown in one query. All attributes except ``limits`` and ``ood`` are plain JSON values.

    Attributes
    ----------
    rule
        Description of the rule.
    limits
        ID score below which a cell is Unknown, for each label, shape (L,). None for a rule without such limits.
    ood
        Out-of-distribution (OOD) rule, or None. With both ``limits`` and ``ood``, a cell is Unknown only if both rules
        reject the cell.
    threshold
        Confidence below which a cell is Unknown, instead of all other rules; None for the other rules.
    least_confidence
        Confidence below which a cell is also Unknown, for a query with few of the reference's genes; otherwise None.
    unknown_rate
        Largest share of known cells that become Unknown, which is guaranteed; None without a guarantee.
    false_rejection
        Expected share of the query's known cells below the limits: about ``unknown_rate`` in a study like the
        reference. None if no label has enough query cells, or if the rule was fitted without ``limits``.
    """

    rule: str
    limits: npt.NDArray[np.float64] | None = None
    ood: OODRule | None = None
    threshold: float | None = None
    unknown_rate: float | None = None
    false_rejection: float | None = None
    least_confidence: float | None = None

    def reject_all(self) -> RejectionRule:
        """Return the rule for a query that the reference does not suit: all cells are Unknown.

        A rule with neither ``limits`` nor ``ood`` is returned unchanged.
        """
        labels = self.limits if self.ood is None else self.ood.cutoffs[0]
        if labels is None:
            return self
        limits = np.full(len(labels), np.inf)
        return replace(self, rule="the reference does not suit this query", limits=limits, ood=None)

    def ood_scores(self, scores: CellScores) -> npt.NDArray[np.float64] | None:
        """Return the OOD score of n cells, shape (n,), above 0 for rejected cells; None without an OOD rule."""
        if self.ood is None or scores.averaged_score is None:
            return None
        return -self.ood.margins(scores.averaged_score, scores.probabilities.argmax(axis=1), scores.batches)

    def is_unknown(self, scores: CellScores) -> Bools:
        """Return a mask of the Unknown cells, shape (n,), from scores with calibrated probabilities.

        Cells whose probabilities are all 0 are Unknown by every rule. A score of NaN counts as below every limit.
        """
        confidence = scores.probabilities.max(axis=1, initial=0)
        uncertain = ~(confidence > 0)
        if self.least_confidence is not None:
            uncertain |= confidence < self.least_confidence
        if self.threshold is not None:
            return np.asarray(uncertain | ~(confidence >= self.threshold))
        rules = []
        if self.limits is not None and scores.id_score is not None:
            rules.append(~(scores.id_score >= self.limits[scores.probabilities.argmax(axis=1)]))
        if (ood := self.ood_scores(scores)) is not None:
            rules.append(~(ood <= 0))
        return np.asarray(uncertain | np.logical_and.reduce(rules) if rules else uncertain)


def fit_rejection(
    thresholds: Thresholds,
    options: RejectionOptions,
    label_names: tuple[str, ...],
    sample: CellScores,
    match: LabelMatch | None,
    *,
    smoothed: bool,
    few_genes: bool = False,
    allowed: Integers | None = None,
) -> RejectionRule:
    """Fit the rule for Unknown to a sample of a query's cells.

    Parameters
    ----------
    label_names
        Names of the labels, by index.
    sample
        Scores of the sample, with calibrated probabilities.
    match
        Agreement of the labels with the reference; None for a reference of format 1.
    smoothed
        True if probabilities are averaged over neighbours.
    few_genes
        True if the query has few of the reference's genes.
    allowed
        Indices of the labels that a cell may get; None for all labels.

    Raises
    ------
    ConfigError
        When an option needs ID scores and the reference has none.
    """
    calibration, rate = thresholds.calibration(smoothed), options.unknown_rate
    if rate == 0:
        return RejectionRule("no cell is rejected", unknown_rate=0.0)
    if options.threshold is not None or (calibration is None and rate is None and not options.reference_cutoff):
        limit = thresholds.threshold if options.threshold is None else options.threshold
        return RejectionRule(f"confidence below {limit:.4f}", threshold=limit)
    if calibration is None or sample.id_score is None or sample.averaged_score is None or match is None:
        msg = (
            "This reference has format 1, which stores no in-distribution scores of held-out cells, so no rate of "
            "Unknown can be guaranteed. Train it again, or pass threshold=0.95 (--threshold 0.95)."
        )
        raise ConfigError(msg)
    best = sample.probabilities.argmax(axis=1)
    medians, shares = calibration.medians_and_shares(label_names)
    if allowed is not None:
        shares = shares / shares[allowed].sum()
    ood = OODRule.fit(sample.averaged_score, best, sample.batches, match, medians, shares)
    by_ood = "OOD score above 0 (unlike the cells of its label in its batch)"
    by_default = rate is None and not options.reference_cutoff
    least = least_confidence(sample.probabilities) if few_genes and by_default else None
    uncertain = "" if least is None else f"confidence below {least:.2f}, as the query has few genes; or "
    # Without smoothing, known cells can have low scores by chance. So the limits from held-out cells apply too.
    if by_default and smoothed:
        return RejectionRule(f"{uncertain}{by_ood}", ood=ood, least_confidence=least)
    rate = thresholds.unknown_rate if rate is None else rate
    limits = calibration.limits(label_names, rate)
    expected = expected_false_rejection(calibration, label_names, best, sample.id_score, rate)
    rule = f"in-distribution score below that of {100 * (1 - rate):g}% of held-out cells"
    if options.reference_cutoff:
        return RejectionRule(rule, limits, unknown_rate=rate, false_rejection=expected)
    rule, guaranteed = f"{uncertain}{rule}, and {by_ood}", rate if least is None else None
    return RejectionRule(rule, limits, ood, unknown_rate=guaranteed, false_rejection=expected, least_confidence=least)


def least_confidence(probabilities: Floats) -> float | None:
    """Return the confidence below which cells of a query with few genes become Unknown; None if no cell does.

    The expected error of a cell is 1 - confidence. The least certain cells are rejected until the mean expected error
    of the others is at most 0.07.

    Parameters
    ----------
    probabilities
        Label probabilities of a sample of cells, shape (k, L).
    """
    largest = probabilities.max(axis=1, initial=0).astype(np.float64)
    confidence = np.sort(largest[np.isfinite(largest)])[::-1]
    errors = np.cumsum(1 - confidence) / np.arange(1, len(confidence) + 1)
    kept = int((errors <= REJECTION.largest_error).sum())
    if kept == len(confidence):
        return None
    # The cut-off lies halfway to the next cell, so that rounding of an engine does not change the decision.
    return float(confidence[kept - 1 : kept + 1].mean()) if kept else 1.0


def expected_false_rejection(
    calibration: Calibration, label_names: tuple[str, ...], best: Integers, id_scores: Floats, rate: float
) -> float | None:
    """Estimate the share of a query's known cells whose ID score is below the limit for a rate of false rejections.

    The cells of missing types lower the scores of the labels that they get. So the spread of known cells is taken from
    the upper half of the scores of each label, and the estimate is the median over labels. The estimate is None if no
    label has enough cells.

    Parameters
    ----------
    best, id_scores
        Index of the most probable label and ID score of a sample of cells, both of shape (n,).
    """
    of_labels = [id_scores[best == index] for index, name in enumerate(label_names) if name in calibration.labels]
    spreads = [_mirrored(scores) for scores in of_labels if len(scores) >= REJECTION.spread_cells]
    limit = calibration.everything.threshold(rate)
    return float(np.median([(mirrored < limit).mean() for mirrored in spreads])) if spreads else None


def _mirrored(scores: Floats) -> npt.NDArray[np.float64]:
    """Return the scores at or above the median, and their mirror image below the median."""
    median = float(np.median(scores))
    upper = scores[scores >= median].astype(np.float64)
    return np.concatenate([upper, 2 * median - upper])

"""Find the Unknown cells of a query: cut-offs are fitted on a sample of its cells, then applied to any of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spikgpt.errors import ConfigError
from spikgpt.scoring.ood_rule import OODRule
from spikgpt.scoring.thresholds import Calibration, Thresholds
from spikgpt.types import Bools, Floats, Integers, Rows

# Upper limit on the mean expected error, 1 - confidence, of the labelled cells of a query with few genes.
LARGEST_EXPECTED_ERROR = 0.07
# Cells of a label in the sample that tell how far its scores spread.
CELLS_TO_TELL_SPREAD = 20


class Asked(Protocol):
    """Which cells are to be Unknown: :class:`spikgpt.options.AnnotateOptions` says it."""

    @property
    def unknown_rate(self) -> float | None:
        """Share of the known cells that may be Unknown."""

    @property
    def threshold(self) -> float | None:
        """Confidence below which a cell is Unknown, instead."""

    @property
    def same_study(self) -> bool:
        """Whether to take the query for cells of the reference's own study."""


@dataclass(frozen=True)
class CellScores:
    """Of n cells: label ``probabilities``, shape (n, L), and the index of their batch, shape (n,).

    ``familiarity`` and ``typicality``, each of shape (n,), for a reference that scores familiarity.
    """

    probabilities: Floats
    batches: Integers
    familiarity: npt.NDArray[np.float64] | None = None
    typicality: npt.NDArray[np.float64] | None = None

    def part(self, cells: Rows) -> CellScores:
        """Return those of some of the cells."""
        told: dict[str, Any] = {name: values[cells] for name, values in vars(self).items() if values is not None}
        return CellScores(**told)


@dataclass(frozen=True)
class RejectionRule:
    """When a cell of one query is Unknown. All but ``limits`` and ``ood`` are plain JSON values.

    Attributes
    ----------
    rule
        What makes a cell Unknown, in words.
    limits
        For each label, the familiarity score below which a cell that is given it is Unknown, shape (L,).
    ood
        The out-of-distribution rule. With ``limits`` too, a cell is Unknown where both say so.
    threshold
        The probability below which a cell is Unknown. With none of the three no cell is.
    least_confidence
        The probability below which a cell is Unknown too, because the query has few of the reference's genes.
    unknown_rate
        Share of the known cells that may be Unknown, if that is promised.
    farther
        Estimate of the share of known cells in this query that lie below the limits, from the cells that are more
        familiar than most: about ``unknown_rate`` in a study like the reference. None where there are too few cells,
        or nothing is promised.
    """

    rule: str
    limits: npt.NDArray[np.float64] | None = None
    ood: OODRule | None = None
    threshold: float | None = None
    unknown_rate: float | None = None
    farther: float | None = None
    least_confidence: float | None = None

    def reject_all(self) -> RejectionRule:
        """Return the cut-offs of a query that the reference does not suit: where familiarity counts, all is Unknown."""
        labels = self.limits if self.ood is None else self.ood.cutoffs[0]
        if labels is None:
            return self
        nowhere = np.full(len(labels), np.inf)
        return replace(self, rule="the reference does not suit this query", limits=nowhere, ood=None)

    def ood_scores(self, scores: CellScores) -> npt.NDArray[np.float64] | None:
        """Return the OOD score of n cells, shape (n,): Unknown above 0. None without the out-of-distribution rule."""
        if self.ood is None or scores.typicality is None:
            return None
        return -self.ood.margins(scores.typicality, scores.probabilities.argmax(axis=1), scores.batches)

    def is_unknown(self, scores: CellScores) -> Bools:
        """Return which of n cells are Unknown, by their scores, the probabilities of which are calibrated.

        Whatever the rule, a cell is that has no probabilities; and a score that is not a number is below every limit.
        """
        confidence = scores.probabilities.max(axis=1, initial=0)
        unsaid = ~(confidence > 0)
        if self.least_confidence is not None:
            unsaid |= confidence < self.least_confidence
        if self.threshold is not None:
            return np.asarray(unsaid | ~(confidence >= self.threshold))
        parts = []
        if self.limits is not None and scores.familiarity is not None:
            parts.append(~(scores.familiarity >= self.limits[scores.probabilities.argmax(axis=1)]))
        if (ood := self.ood_scores(scores)) is not None:
            parts.append(~(ood <= 0))
        return np.asarray(unsaid | np.logical_and.reduce(parts) if parts else unsaid)


def fit_cutoffs(
    thresholds: Thresholds,
    asked: Asked,
    label_names: tuple[str, ...],
    sample: CellScores,
    support: Floats | None,
    *,
    smoothed: bool,
    few_genes: bool = False,
) -> RejectionRule:
    """Set the cut-offs of a query after a look at a sample of its cells.

    Parameters
    ----------
    label_names
        Labels, by index.
    sample
        Scores of the sample, with calibrated probabilities.
    support
        What :func:`spikgpt.scoring.contrasts.label_support` returns, for a reference that scores familiarity.
    smoothed
        Whether cells are labelled with their neighbours.
    few_genes
        Whether the query has few of the reference's genes.

    Raises
    ------
    ConfigError
        When familiarity is asked for and the reference has none.
    """
    calibration, rate = thresholds.calibration(smoothed), asked.unknown_rate
    if rate == 0:
        return RejectionRule("no cell is rejected", unknown_rate=0.0)
    if asked.threshold is not None or (calibration is None and rate is None and not asked.same_study):
        limit = thresholds.threshold if asked.threshold is None else asked.threshold
        return RejectionRule(f"a probability below {limit:.4f}", threshold=limit)
    if calibration is None or sample.familiarity is None or sample.typicality is None or support is None:
        msg = (
            "This reference was trained before familiarity was measured, so no rate of Unknown cells can be promised. "
            "Train it again, or set a threshold on the probability: threshold=0.95 (--threshold 0.95)."
        )
        raise ConfigError(msg)
    best = sample.probabilities.argmax(axis=1)
    baselines, shares = calibration.baselines(label_names)
    ood = OODRule.fit(sample.typicality, best, sample.batches, support, baselines, shares)
    unlike = "unlike the cells of its label in its batch (OOD score above 0)"
    by_default = rate is None and not asked.same_study
    least = least_confidence(sample.probabilities) if few_genes and by_default else None
    uncertain = "" if least is None else f"of a confidence below {least:.2f}, as the query has few genes; or "
    # Seen alone, a known cell may be atypical by chance: then the promise of held-out cells bounds the rule.
    if by_default and smoothed:
        return RejectionRule(f"{uncertain}{unlike}", ood=ood, least_confidence=least)
    rate = thresholds.unknown_rate if rate is None else rate
    limits = calibration.limits(label_names, rate)
    farther = expected_false_rejection(calibration, label_names, best, sample.familiarity, rate)
    rule = f"less familiar than {100 * (1 - rate):g}% of held-out known cells"
    if asked.same_study:
        return RejectionRule(rule, limits, unknown_rate=rate, farther=farther)
    rule, promised = f"{uncertain}{rule}, and {unlike}", rate if least is None else None
    return RejectionRule(rule, limits, ood, unknown_rate=promised, farther=farther, least_confidence=least)


def least_confidence(probabilities: Floats) -> float | None:
    """Return the confidence below which cells become Unknown, so that few of the other labels are wrong.

    With p the largest probability of a cell, 1 - p is its expected error. The least certain cells are left out until
    the mean expected error of the others is at most ``LARGEST_EXPECTED_ERROR``; None where it is so already.

    Parameters
    ----------
    probabilities
        Label probabilities of a sample of cells, shape (k, L).
    """
    largest = probabilities.max(axis=1, initial=0).astype(np.float64)
    confidence = np.sort(largest[np.isfinite(largest)])[::-1]
    errors = np.cumsum(1 - confidence) / np.arange(1, len(confidence) + 1)
    kept = int((errors <= LARGEST_EXPECTED_ERROR).sum())
    if kept == len(confidence):
        return None
    # Halfway to the next cell, so that the last digits of an engine do not decide.
    return float(confidence[kept - 1 : kept + 1].mean()) if kept else 1.0


def expected_false_rejection(
    calibration: Calibration, label_names: tuple[str, ...], best: Integers, scores: Floats, rate: float
) -> float | None:
    """Estimate which share of a query's known cells is less familiar than all but a share of the held-out cells.

    It is taken from the cells that are more familiar than most of their label, in the median over labels, as cells of
    an unseen type may all be given one label.

    Parameters
    ----------
    best, scores
        Index of the most probable label and familiarity of a sample of cells, both of shape (n,).
    """
    of_labels = [scores[best == index] for index, name in enumerate(label_names) if name in calibration.labels]
    spreads = [_mirrored(scores) for scores in of_labels if len(scores) >= CELLS_TO_TELL_SPREAD]
    most = calibration.everything.threshold(rate)
    return float(np.median([(mirrored < most).mean() for mirrored in spreads])) if spreads else None


def _mirrored(scores: Floats) -> npt.NDArray[np.float64]:
    """Return the upper half of a label's scores and its mirror image below the median.

    Cells of unseen types that were given the label are less familiar than those that have it, so the upper half says
    how far known cells spread.
    """
    middle = float(np.median(scores))
    upper = scores[scores >= middle].astype(np.float64)
    return np.concatenate([upper, 2 * middle - upper])

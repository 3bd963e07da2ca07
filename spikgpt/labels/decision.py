"""Which cells of a query are Unknown: cut-offs are fitted on a sample of its cells, then applied to any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spikgpt.errors import ConfigError
from spikgpt.labels.thresholds import Thresholds
from spikgpt.types import Bools, Floats

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
    def recalibrate(self) -> bool:
        """Whether to be as lenient as the query suggests."""


@dataclass(frozen=True)
class Cutoffs:
    """When a cell of one query is Unknown. All but ``limits`` are plain JSON values.

    Attributes
    ----------
    rule
        What makes a cell Unknown, in words.
    limits
        For each label, the familiarity score below which a cell that is given it is Unknown, shape (L,).
    threshold
        The probability below which a cell is Unknown. With neither this nor ``limits`` no cell is.
    unknown_rate
        Share of the known cells that may be Unknown, if that is promised.
    recalibrated
        Whether the limits were lowered to what the sample suggests.
    expected
        Estimate of the share of known cells in this query that are Unknown, from the cells that are more familiar than
        most; None where there are too few cells, or nothing is promised.
    """

    rule: str
    limits: npt.NDArray[np.float64] | None = None
    threshold: float | None = None
    unknown_rate: float | None = None
    recalibrated: bool = False
    expected: float | None = None

    def rejects(self, probabilities: Floats, scores: Floats | None) -> Bools:
        """Return which cells are Unknown, by calibrated probabilities, shape (n, L), and familiarity scores, (n,)."""
        if self.threshold is not None:
            return np.asarray(probabilities.max(axis=1) < self.threshold)
        if self.limits is None or scores is None:
            return np.zeros(len(probabilities), dtype=bool)
        return np.asarray(scores < self.limits[probabilities.argmax(axis=1)])


def fit_cutoffs(
    thresholds: Thresholds,
    asked: Asked,
    label_names: tuple[str, ...],
    sample_probabilities: Floats,
    sample_scores: Floats | None,
    *,
    smoothed: bool,
) -> Cutoffs:
    """Set the cut-offs of a query after a look at a sample of n cells.

    Parameters
    ----------
    label_names
        Labels, by index.
    sample_probabilities
        Label probabilities, calibrated, shape (n, L).
    sample_scores
        Familiarity scores, shape (n,), for a reference that has calibrated them.
    smoothed
        Whether cells are labelled with their neighbours.

    Raises
    ------
    ConfigError
        When familiarity is asked for and the reference has none.
    """
    calibration, rate = thresholds.calibration(smoothed), asked.unknown_rate
    if rate == 0:
        return Cutoffs("no cell is rejected", unknown_rate=0.0)
    if asked.threshold is not None or (calibration is None and rate is None and not asked.recalibrate):
        limit = thresholds.threshold if asked.threshold is None else asked.threshold
        return Cutoffs(f"a probability below {limit:.4f}", threshold=limit)
    if calibration is None or sample_scores is None:
        msg = (
            "This reference was trained before familiarity was measured, so no rate of Unknown cells can be promised. "
            "Train it again, or set a threshold on the probability: threshold=0.95 (--threshold 0.95)."
        )
        raise ConfigError(msg)
    rate = thresholds.unknown_rate if rate is None else rate
    limits, expected = calibration.limits(label_names, rate), None
    rule = f"less familiar than {100 * (1 - rate):g}% of held-out known cells"
    best = sample_probabilities.argmax(axis=1)
    of_labels = [sample_scores[best == index] for index, name in enumerate(label_names) if name in calibration.labels]
    spreads = [_mirrored(scores) for scores in of_labels if len(scores) >= CELLS_TO_TELL_SPREAD]
    if spreads:
        # Cells of an unseen type may all be given one label, so each label has one vote.
        most = calibration.everything.threshold(rate)
        expected = float(np.median([(mirrored < most).mean() for mirrored in spreads]))
    if asked.recalibrate and spreads:
        limits = np.minimum(limits, float(np.median([np.quantile(mirrored, rate) for mirrored in spreads])))
        rule += ", as far as this query spreads"
    elif asked.recalibrate:
        rule += " (too few cells to recalibrate)"
    recalibrated = asked.recalibrate and bool(spreads)
    return Cutoffs(rule, limits, unknown_rate=rate, recalibrated=recalibrated, expected=expected)


def _mirrored(scores: Floats) -> npt.NDArray[np.float64]:
    """Return the upper half of a label's scores and its mirror image below the median.

    Cells of unseen types that were given the label are less familiar than those that have it, so the upper half says
    how far known cells spread.
    """
    middle = float(np.median(scores))
    upper = scores[scores >= middle].astype(np.float64)
    return np.concatenate([upper, 2 * middle - upper])

"""What a reference knows of its held-out cells: thresholds for Unknown, and the temperature of its probabilities.

A cell is Unknown when it is less familiar (see :mod:`spikgpt.scoring.ood_scorer`) than nearly all held-out cells, which
the measured model had not seen. The user chooses how many known cells may be rejected, 5% by default, and split
conformal prediction makes it a promise (Vovk et al., Algorithmic Learning in a Random World, 2005): of known cells that
could be exchanged with the held-out ones, at most the chosen share is rejected on average, whatever their distribution.

The paper's rule is kept beside it: Unknown when the largest probability is below a threshold, 0.95.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from spikgpt.errors import DamagedReference
from spikgpt.sampling import rows_by_label
from spikgpt.types import Floats, Integers, Strings

PAPER_THRESHOLD = 0.95
DEFAULT_UNKNOWN_RATE = 0.05
# Held-out cells that a label needs for a promise of its own, and for its scores to be kept at all.
CELLS_FOR_OWN_LIMIT, CELLS_TO_KEEP_LABEL = 30, 10
# Scores of held-out cells that are kept: all, or so many spread evenly over their ranks.
LARGEST_KEPT = 1000
# Probabilities of held-out cells that are all right differ from 1 by 1e-8 or by nothing, which float32 cannot hold. A
# threshold so near to 1 rejects other cells in float32 than in float64; a lower one keeps the promise.
LARGEST_THRESHOLD = 0.9999
# Sums of a few logarithms, so far from it.
LARGEST_SCORE = 1e6
# Natural logarithms of the smallest and the largest temperature.
TEMPERATURES = (-2.0, 2.0)

Probability = Annotated[float, Meta(ge=0, le=1)]


def conformal_rank(cells: int, unknown_rate: float) -> int:
    """Return how many of some held-out cells may lie below a threshold, 0 when there are too few cells.

    With n held-out cells exchangeable with a new one, the new one falls below the r-th smallest value with a
    probability of at most r / (n + 1); r is the largest rank for which that is at most the rate.
    """
    return math.floor(unknown_rate * (cells + 1))


class ConformalScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Familiarity scores of held-out cells in ascending order.

    Attributes
    ----------
    cells
        Number of the held-out cells.
    ranks, values
        The scores that are kept, and their ranks among all, from 1.
    """

    cells: Annotated[int, Meta(ge=1, le=10**12)]
    ranks: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        ranks, values = self.ranks, np.array(self.values)
        ascending = list(ranks) == sorted(set(ranks)) and not (np.diff(values) < 0).any()
        if not (
            ascending
            and len(ranks) == len(values)
            and max(ranks) <= self.cells
            and (np.abs(values) <= LARGEST_SCORE).all()
        ):
            msg = f"the scores of {self.cells} held-out cells are not finite ascending numbers, each with its rank."
            raise DamagedReference(msg)

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """Keep what thresholds of any rate need of some scores, shape (n,)."""
        ascending = np.sort(scores)
        kept = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), LARGEST_KEPT)).astype(int))
        # Rounded down: up, a limit could lie above the cell that sets it, and above every cell that ties with that.
        values = np.floor(ascending[kept] * 1e6) / 1e6
        return cls(len(scores), tuple((kept + 1).tolist()), tuple(values.tolist()))

    def threshold(self, unknown_rate: float) -> float:
        """Return the score below which at most a share of cells like these lies; -inf when there are too few."""
        place = np.searchsorted(self.ranks, conformal_rank(self.cells, unknown_rate), side="right")
        return self.values[place - 1] if place else -math.inf

    @property
    def median(self) -> float:
        """Score that half of the held-out cells do not exceed."""
        return float(np.interp((self.cells + 1) / 2, self.ranks, self.values))

    def p_value(self, scores: Floats) -> npt.NDArray[np.float64]:
        """Return the share of cells like these that have a lower score, between 0 and 1: (n,) to (n,).

        It grows with the score, and goes on towards 0 and 1 beyond the smallest and the largest.
        """
        values, ranks = np.array(self.values), np.array(self.ranks)
        spread = max(values[len(values) // 2] - values[0], 1e-6)
        beyond = np.exp(-np.maximum(np.maximum(values[0] - scores, scores - values[-1]), 0) / spread)
        inside = np.interp(scores, values, ranks)
        filled = np.where(scores < values[0], beyond, np.where(scores > values[-1], self.cells + 1 - beyond, inside))
        return np.asarray(filled / (self.cells + 1))


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What held-out cells say of one way to label: each cell by itself, or smoothed with its neighbours.

    Attributes
    ----------
    everything, labels
        Scores of all held-out cells, and of those that were given a label, for labels with at least 10 of them.
    temperature
        Divides the logits of cells labelled by themselves. Smoothed probabilities are raised to ``1 / temperature``
        instead, see :func:`tempered`.
    """

    everything: ConformalScores
    labels: dict[str, ConformalScores]
    temperature: Annotated[float, Meta(ge=0.01, le=100)] = 1.0

    @classmethod
    def of(cls, scores: Floats, best: Strings, temperature: float = 1.0) -> Self:
        """Learn from held-out cells: scores and best labels, both of shape (n,)."""
        by_label = {name: rows for name, rows in rows_by_label(best).items() if len(rows) >= CELLS_TO_KEEP_LABEL}
        own = {name: ConformalScores.of(scores[rows]) for name, rows in by_label.items()}
        return cls(ConformalScores.of(scores), own, temperature)

    def limits(self, label_names: tuple[str, ...], unknown_rate: float) -> npt.NDArray[np.float64]:
        """Return the score below which a cell is Unknown, for each label, shape (L,).

        The lower one of the label's and that of all cells, so that both promises hold.
        """
        most = self.everything.threshold(unknown_rate)
        own = {name: scores for name, scores in self.labels.items() if scores.cells >= CELLS_FOR_OWN_LIMIT}
        return np.minimum(most, [own[name].threshold(unknown_rate) if name in own else most for name in label_names])

    def baselines(self, label_names: tuple[str, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the median score of the held-out cells of each label, and their share of all, each of shape (L,).

        A label of fewer than 10 held-out cells, whose scores were not kept, has the median of all and half of 10 cells.
        """
        own = [self.labels.get(name) for name in label_names]
        medians = [self.everything.median if scores is None else scores.median for scores in own]
        cells = [CELLS_TO_KEEP_LABEL / 2 if scores is None else scores.cells for scores in own]
        return np.array(medians), np.array(cells) / self.everything.cells


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a cell is Unknown: the content of ``thresholds.json``.

    Attributes
    ----------
    threshold
        For the largest probability of a cell that is labelled by itself: at most about ``unknown_rate`` of the known
        cells fall below it, as measured on ``calibration_cells`` held-out cells. At most 0.9999 from training.
    single, smoothed
        Calibrations of cells labelled by themselves and with their neighbours; a reference of format 1, whose method
        is the maximum probability, has neither.
    """

    method: Literal["maximum probability", "familiarity"]
    threshold: Probability
    unknown_rate: Probability
    calibration_cells: Annotated[int, Meta(ge=0, le=10**12)]
    paper_threshold: Probability
    single: Calibration | None = msgspec.field(default=None, name="alone")
    smoothed: Calibration | None = msgspec.field(default=None, name="together")

    def __post_init__(self) -> None:
        given = [name for name, mode in (("alone", self.single), ("together", self.smoothed)) if mode is not None]
        if len(given) != (2 if self.method == "familiarity" else 0):
            msg = (
                f"the method {self.method!r} comes with {' and '.join(given) or 'no calibration'}; expected "
                "'familiarity' with alone and together, or 'maximum probability' with neither."
            )
            raise DamagedReference(msg)

    @classmethod
    def of(
        cls,
        confidence: Floats,
        unknown_rate: float = DEFAULT_UNKNOWN_RATE,
        *,
        single: Calibration | None = None,
        smoothed: Calibration | None = None,
    ) -> Self:
        """Set a threshold on the largest probability that rejects at most a share of the known cells.

        Parameters
        ----------
        confidence
            Largest probability of held-out cells, each labelled by itself, shape (n,).
        unknown_rate
            Share of known cells that may be rejected.
        single, smoothed
            What familiarity was on the same cells, if it was measured.
        """
        rank = conformal_rank(len(confidence), unknown_rate)
        threshold = min(float(np.sort(confidence)[rank - 1]), LARGEST_THRESHOLD) if rank else 0.0
        method: Literal["maximum probability", "familiarity"] = "familiarity" if single else "maximum probability"
        return cls(method, threshold, unknown_rate, len(confidence), PAPER_THRESHOLD, single, smoothed)

    @property
    def temperature(self) -> float:
        """What the logits of a cell labelled by itself are divided by, so that its probabilities are calibrated."""
        return self.single.temperature if self.single else 1.0

    def calibration(self, smoothed: bool) -> Calibration | None:
        """Return what held-out cells say of labels that are smoothed or not, None for a reference of format 1."""
        return self.smoothed if smoothed else self.single


def fit_temperature(probabilities: Floats, truth: Integers) -> float:
    """Return the temperature at which the labels of held-out cells are likeliest.

    See Guo et al., On Calibration of Modern Neural Networks, 2017.

    Parameters
    ----------
    probabilities
        Label probabilities, shape (n, L).
    truth
        Index of each cell's label, shape (n,).
    """
    # Training alone calls this, and the import takes longer than labelling small files.
    from scipy.optimize import minimize_scalar

    cells = np.arange(len(truth))

    def loss(logarithm: float) -> float:
        right = tempered(probabilities, math.exp(logarithm))[cells, truth]
        return float(-np.log(np.maximum(right, 1e-12)).mean())

    found = minimize_scalar(loss, bounds=TEMPERATURES, method="bounded", options={"xatol": 1e-3})
    return round(math.exp(found.x), 4)


def tempered(probabilities: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Return probabilities raised to 1 / temperature, each row with sum 1, but rows of zeros: (n, L) to (n, L)."""
    if temperature == 1:
        return np.asarray(probabilities, dtype=np.float64)
    raised = probabilities.astype(np.float64) ** (1 / temperature)
    return np.asarray(raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-300))

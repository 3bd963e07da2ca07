"""Thresholds for Unknown from the held-out cells of a reference, and the temperature of its probabilities.

Split conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005) sets the limit on the ID score
(:mod:`spikgpt.scoring.ood_scorer`). At most a chosen share of known cells is then rejected on average, if known cells
are exchangeable with the held-out cells.
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
# Number of held-out cells that a label needs for its own limit, and number that it needs to have its scores stored.
CELLS_FOR_OWN_LIMIT, CELLS_TO_KEEP_LABEL = 30, 10
# Largest number of stored scores, spread evenly over the ranks.
LARGEST_KEPT = 1000
# Largest threshold on probabilities. With a threshold nearer to 1, float32 and float64 reject different cells. A lower
# threshold rejects fewer cells, so the guarantee still holds.
LARGEST_THRESHOLD = 0.9999
# Largest absolute value of a stored score. Real scores are sums of a few logarithms, and far smaller.
LARGEST_SCORE = 1e6
# Natural logarithms of the smallest and the largest temperature.
TEMPERATURES = (-2.0, 2.0)

Probability = Annotated[float, Meta(ge=0, le=1)]


def conformal_rank(cells: int, unknown_rate: float) -> int:
    """Return the rank of the held-out score that becomes the threshold; 0 if there are too few held-out cells.

    If a new cell is exchangeable with n held-out cells, its score is below the r-th smallest score with a probability
    of at most r / (n + 1). The returned rank r is the largest for which r / (n + 1) is at most ``unknown_rate``.
    """
    return math.floor(unknown_rate * (cells + 1))


class ConformalScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ID scores of held-out cells in ascending order.

    Attributes
    ----------
    cells
        Number of the held-out cells.
    ranks, values
        Ranks of the stored scores among all scores, counted from 1, and the stored scores.
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
    def fit(cls, scores: Floats) -> Self:
        """Store the scores of held-out cells, shape (n,).

        Of more than 1000 scores, only 1000 are stored. The ranks of these scores are evenly spaced.
        """
        ascending = np.sort(scores)
        kept = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), LARGEST_KEPT)).astype(int))
        # Scores are rounded down: a limit that is rounded up could lie above the cell that sets the limit.
        values = np.floor(ascending[kept] * 1e6) / 1e6
        return cls(len(scores), tuple((kept + 1).tolist()), tuple(values.tolist()))

    def threshold(self, unknown_rate: float) -> float:
        """Return the ID score with at most ``unknown_rate`` of known cells below it; -inf if too few were held out."""
        position = np.searchsorted(self.ranks, conformal_rank(self.cells, unknown_rate), side="right")
        return self.values[position - 1] if position else -math.inf

    @property
    def median(self) -> float:
        """Median ID score of the held-out cells."""
        return float(np.interp((self.cells + 1) / 2, self.ranks, self.values))

    def p_value(self, scores: Floats) -> npt.NDArray[np.float64]:
        """Return the conformal p-value of each ID score, shape (n,): the share of held-out cells with a lower score.

        Below the lowest held-out score the p-value approaches 0. Above the highest held-out score it approaches 1.
        """
        values, ranks = np.array(self.values), np.array(self.ranks)
        spread = max(values[len(values) // 2] - values[0], 1e-6)
        beyond = np.exp(-np.maximum(np.maximum(values[0] - scores, scores - values[-1]), 0) / spread)
        inside = np.interp(scores, values, ranks)
        filled = np.where(scores < values[0], beyond, np.where(scores > values[-1], self.cells + 1 - beyond, inside))
        return np.asarray(filled / (self.cells + 1))


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores and temperature of held-out cells that were labelled with or without smoothing.

    Attributes
    ----------
    everything, labels
        ID scores of all held-out cells, and of the held-out cells of each label that has at least 10 of these cells.
    temperature
        Without smoothing, the temperature divides the logits. Smoothed probabilities are raised to
        ``1 / temperature`` instead; see :func:`tempered`.
    """

    everything: ConformalScores
    labels: dict[str, ConformalScores]
    temperature: Annotated[float, Meta(ge=0.01, le=100)] = 1.0

    @classmethod
    def fit(cls, scores: Floats, best: Strings, temperature: float = 1.0) -> Self:
        """Return the calibration from the ID scores and best labels of held-out cells, both of shape (n,)."""
        by_label = {name: rows for name, rows in rows_by_label(best).items() if len(rows) >= CELLS_TO_KEEP_LABEL}
        own = {name: ConformalScores.fit(scores[rows]) for name, rows in by_label.items()}
        return cls(ConformalScores.fit(scores), own, temperature)

    def limits(self, label_names: tuple[str, ...], unknown_rate: float) -> npt.NDArray[np.float64]:
        """Return the ID score below which a cell is Unknown, for each label, shape (L,).

        The score is the lower of the label's own limit and the limit of all cells, so that both guarantees hold. A
        label of fewer than 30 held-out cells has no own limit.
        """
        overall = self.everything.threshold(unknown_rate)
        own = {name: scores for name, scores in self.labels.items() if scores.cells >= CELLS_FOR_OWN_LIMIT}
        limits = [own[name].threshold(unknown_rate) if name in own else overall for name in label_names]
        return np.minimum(overall, limits)

    def medians_and_shares(
        self, label_names: tuple[str, ...]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return each label's median score and share of all cells, for held-out cells, both of shape (L,).

        A label of fewer than 10 held-out cells gets the median of all cells, and counts as 5 cells.
        """
        own = [self.labels.get(name) for name in label_names]
        medians = [self.everything.median if scores is None else scores.median for scores in own]
        cells = [CELLS_TO_KEEP_LABEL / 2 if scores is None else scores.cells for scores in own]
        return np.array(medians), np.array(cells) / self.everything.cells


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Content of ``thresholds.json``.

    Attributes
    ----------
    method
        ``familiarity`` for thresholds on the ID score; ``maximum probability`` for a reference of format 1.
    threshold
        Threshold on the confidence of a cell labelled without smoothing. At most about ``unknown_rate`` of the known
        cells fall below the threshold, as measured on ``calibration_cells`` held-out cells. Training sets at most
        0.9999.
    single, smoothed
        Calibrations without and with smoothing; None for a reference of format 1.
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
    def fit(
        cls,
        confidence: Floats,
        unknown_rate: float = DEFAULT_UNKNOWN_RATE,
        *,
        single: Calibration | None = None,
        smoothed: Calibration | None = None,
    ) -> Self:
        """Set the threshold on the confidence so that at most ``unknown_rate`` of the known cells are rejected.

        Parameters
        ----------
        confidence
            Largest probability of held-out cells, labelled without smoothing, shape (n,).
        unknown_rate
            Largest share of known cells that may be rejected.
        single, smoothed
            Calibrations on the same cells; None if no ID scores were measured.
        """
        rank = conformal_rank(len(confidence), unknown_rate)
        threshold = min(float(np.sort(confidence)[rank - 1]), LARGEST_THRESHOLD) if rank else 0.0
        method: Literal["maximum probability", "familiarity"] = "familiarity" if single else "maximum probability"
        return cls(method, threshold, unknown_rate, len(confidence), PAPER_THRESHOLD, single, smoothed)

    @property
    def temperature(self) -> float:
        """Temperature that divides the logits of a cell labelled without smoothing."""
        return self.single.temperature if self.single else 1.0

    def calibration(self, smoothed: bool) -> Calibration | None:
        """Return the calibration with or without smoothing; None for a reference of format 1."""
        return self.smoothed if smoothed else self.single


def fit_temperature(probabilities: Floats, truth: Integers) -> float:
    """Return the temperature that maximises the likelihood of the labels of held-out cells.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017.

    Parameters
    ----------
    probabilities
        Label probabilities, shape (n, L).
    truth
        Index of each cell's label, shape (n,).
    """
    # Only training needs this import, which takes longer than the labelling of a small file.
    from scipy.optimize import minimize_scalar

    cells = np.arange(len(truth))

    def loss(logarithm: float) -> float:
        of_truth = tempered(probabilities, math.exp(logarithm))[cells, truth]
        return float(-np.log(np.maximum(of_truth, 1e-12)).mean())

    optimum = minimize_scalar(loss, bounds=TEMPERATURES, method="bounded", options={"xatol": 1e-3})
    return round(math.exp(optimum.x), 4)


def tempered(probabilities: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Return probabilities, shape (n, L), raised to 1 / temperature and scaled to row sums of 1; zeros stay zeros."""
    if temperature == 1:
        return np.asarray(probabilities, dtype=np.float64)
    raised = probabilities.astype(np.float64) ** (1 / temperature)
    return np.asarray(raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-300))

"""From probabilities and familiarity to a label or "Unknown".

A cell is Unknown when it is less familiar (see :mod:`spikgpt.labels.familiarity`) than nearly all cells of the
reference's own types that the measured model had not seen. How many of those may be rejected is the user's to choose,
5% by default, and split conformal prediction makes it a promise (Vovk et al., Algorithmic Learning in a Random World,
2005): of known cells that could be exchanged with the n held-out ones, at most the chosen share is rejected on average,
whatever their distribution. A label that was given to enough held-out cells has a promise of its own; the rest share
the one over all cells.

The paper's rule is kept beside it: Unknown when the largest class probability is below a threshold, 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from spikgpt.errors import ConfigError, DamagedReference

UNKNOWN = "Unknown"
PAPER_THRESHOLD = 0.95
DEFAULT_UNKNOWN_RATE = 0.05
# Held-out cells that a label needs for a promise of its own, and to be asked how far a query spreads.
MINIMUM_CELLS, MINIMUM_ASKED = 30, 10
# Scores of held-out cells that are kept: all, or so many spread evenly over their ranks.
LARGEST_KEPT = 1000
# Cells of a label in a query that tell how far its scores spread.
MINIMUM_IN_QUERY = 20
# Largest and smallest temperature, as natural logarithms.
TEMPERATURES = (-2.0, 2.0)

METHOD, FAMILIARITY = "maximum probability", "familiarity"
NUMBERS = ("threshold", "unknown_rate", "calibration_cells", "paper_threshold")
MODES = ("alone", "together")

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scores:
    """Familiarity of ``cells`` held-out cells in ascending order: ``values`` of those of the ``ranks``, from 1."""

    cells: int
    ranks: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """Keep what thresholds of any rate need of some scores, shape (n,)."""
        ascending = np.sort(scores)
        kept = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), LARGEST_KEPT)).astype(int))
        return cls(len(scores), tuple((kept + 1).tolist()), tuple(np.round(ascending[kept], 6).tolist()))

    def threshold(self, unknown_rate: float) -> float:
        """Return the score below which at most a share of cells like these lies.

        With n cells exchangeable with those that are asked about, a new cell falls below the r-th smallest score with a
        probability of at most r / (n + 1); r is the largest rank for which that is at most the rate.
        """
        place = np.searchsorted(self.ranks, math.floor(unknown_rate * (self.cells + 1)), side="right")
        return self.values[place - 1] if place else -math.inf

    def share_below(self, scores: Floats) -> npt.NDArray[np.float64]:
        """Return the share of cells like these that are less familiar, between 0 and 1, growing with the score.

        Beyond the smallest and the largest score it goes on towards 0 and 1.
        """
        values, ranks = np.array(self.values), np.array(self.ranks)
        spread = max(values[len(values) // 2] - values[0], 1e-6)
        beyond = np.exp(-np.maximum(np.maximum(values[0] - scores, scores - values[-1]), 0) / spread)
        inside = np.interp(scores, values, ranks)
        filled = np.where(scores < values[0], beyond, np.where(scores > values[-1], self.cells + 1 - beyond, inside))
        return np.asarray(filled / (self.cells + 1))


@dataclass(frozen=True)
class Calibration:
    """What held-out cells say of a way to label: with neighbours, or each cell alone.

    ``labels`` are the scores of those that were given a label, for labels with at least 10 of them. The temperature
    is that of cells labelled alone, which divides their logits, or of what averaging with neighbours makes of them,
    which is raised to ``1 / temperature`` and made to sum to 1 again.
    """

    everything: Scores
    labels: dict[str, Scores]
    temperature: float = 1.0

    @classmethod
    def of(cls, scores: Floats, best: npt.NDArray[np.str_], temperature: float = 1.0) -> Self:
        """Learn from held-out cells: scores and best labels, both of shape (n,)."""
        names, counts = np.unique(best, return_counts=True)
        own = {str(name): Scores.of(scores[best == name]) for name in names[counts >= MINIMUM_ASKED]}
        return cls(Scores.of(scores), own, temperature)

    def limits(self, names: tuple[str, ...], unknown_rate: float) -> npt.NDArray[np.float64]:
        """Return the score below which a cell is Unknown, for each label, shape (L,).

        The lower one of the label's and that of all cells, so that both promises hold.
        """
        most = self.everything.threshold(unknown_rate)
        own = {name: scores for name, scores in self.labels.items() if scores.cells >= MINIMUM_CELLS}
        return np.minimum(most, [own[name].threshold(unknown_rate) if name in own else most for name in names])


@dataclass(frozen=True)
class Thresholds:
    """When a cell is Unknown.

    ``alone`` and ``together`` calibrate the familiarity of cells that are labelled alone or with their neighbours;
    a reference of format 1 has neither. ``threshold`` is one for the largest probability of a cell that is labelled
    alone: at most about ``unknown_rate`` of the known cells fall below it, as measured on ``calibration_cells``
    labelled cells that the measured model had not seen.
    """

    threshold: float
    unknown_rate: float
    calibration_cells: int
    paper_threshold: float = PAPER_THRESHOLD
    alone: Calibration | None = None
    together: Calibration | None = None

    @property
    def temperature(self) -> float:
        """What the logits of a cell are divided by, so that its probabilities, seen alone, are calibrated."""
        return self.alone.temperature if self.alone else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        numbers = {name: getattr(self, name) for name in NUMBERS}
        if self.alone is None or self.together is None:
            return {"method": METHOD, **numbers}
        return {"method": FAMILIARITY, **numbers, **{mode: asdict(getattr(self, mode)) for mode in MODES}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Thresholds:
        """Read :meth:`to_dict`'s output.

        Raises
        ------
        DamagedReference
            When the method or the fields are not those of this format.
        """
        method = values.get("method") if isinstance(values, dict) else None
        modes = MODES if method == FAMILIARITY else ()
        fields = {"method", *NUMBERS, *modes}
        if not isinstance(values, dict) or values.keys() != fields or method not in (METHOD, FAMILIARITY):
            found = sorted(values) if isinstance(values, dict) else values
            msg = (
                f"thresholds.json holds {found}; expected {sorted(fields)}, method {METHOD!r} or {FAMILIARITY!r}. "
                "Get the reference again."
            )
            raise DamagedReference(msg)
        for name in NUMBERS:
            largest = math.inf if name == "calibration_cells" else 1
            if not _is_number(values[name]) or not 0 <= values[name] <= largest:
                msg = f"{name} in thresholds.json is {values[name]!r}; expected a number from 0 to {largest}."
                raise DamagedReference(msg)
        numbers = {name: values[name] for name in NUMBERS}
        alone, together = (_calibration(values[mode], mode) if mode in modes else None for mode in MODES)
        return cls(**numbers, alone=alone, together=together)


@dataclass(frozen=True)
class Rejection:
    """Which cells are to be Unknown.

    By default at most ``unknown_rate`` of the known cells, by familiarity; 0 rejects none. With ``threshold`` those
    whose largest probability is below it. ``recalibrate`` lowers the limits to what the query itself suggests, for one
    that lies far from the reference.

    Raises
    ------
    ConfigError
        When a number is out of range, or options exclude each other.
    """

    unknown_rate: float | None = None
    threshold: float | None = None
    recalibrate: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None:
            is_unknown(np.empty(0), self.threshold)
            if self.unknown_rate is not None or self.recalibrate:
                msg = "A threshold on the probability goes with neither an unknown rate nor recalibration; choose one."
                raise ConfigError(msg)
        if self.unknown_rate is not None:
            check_rate(self.unknown_rate)


@dataclass(frozen=True)
class Decision:
    """Which of n cells are Unknown, and why.

    ``familiarity``, shape (n,), is the share of held-out known cells that are less familiar, None for a reference of
    format 1. ``rule`` says in words what made a cell Unknown. ``expected`` is an estimate, from the cells that are
    more familiar than most, of the share of known cells in this query that are Unknown; None where there are too few
    cells, or no promise was made.
    """

    rejected: npt.NDArray[np.bool_]
    familiarity: npt.NDArray[np.float32] | None
    rule: str
    threshold: float | None = None
    unknown_rate: float | None = None
    recalibrated: bool = False
    expected: float | None = None


def decide(
    thresholds: Thresholds,
    rejection: Rejection,
    names: tuple[str, ...],
    probabilities: Floats,
    scores: Floats | None,
    *,
    together: bool,
) -> Decision:
    """Decide which cells are Unknown.

    Parameters
    ----------
    names
        Labels, by index.
    probabilities
        Label probabilities, calibrated, shape (n, L).
    scores
        Familiarity scores, shape (n,), for a reference that has calibrated them.
    together
        Whether cells were labelled with their neighbours.

    Raises
    ------
    ConfigError
        When familiarity is asked for and the reference has none.
    """
    calibration = thresholds.together if together else thresholds.alone
    familiarity = None
    if calibration is not None and scores is not None:
        familiarity = calibration.everything.share_below(scores).astype(np.float32)
    none = np.zeros(len(probabilities), dtype=bool)
    rate = rejection.unknown_rate
    if rate == 0:
        return Decision(none, familiarity, "no cell is rejected", unknown_rate=0.0)
    if rejection.threshold is not None or (calibration is None and rate is None and not rejection.recalibrate):
        limit = thresholds.threshold if rejection.threshold is None else rejection.threshold
        rejected = is_unknown(confidence_of(probabilities), limit)
        return Decision(rejected, familiarity, f"a probability below {limit:.4f}", threshold=limit)
    if calibration is None or scores is None:
        msg = (
            "This reference was trained before familiarity was measured, so no rate of Unknown cells can be promised. "
            "Train it again, or give a threshold for the probability."
        )
        raise ConfigError(msg)
    rate = thresholds.unknown_rate if rate is None else rate
    best = probabilities.argmax(axis=1)
    limits = calibration.limits(names, rate)
    spreads = [_mirrored(scores[best == index]) for index, name in enumerate(names) if name in calibration.labels]
    spreads = [mirrored for mirrored in spreads if len(mirrored)]
    expected = None
    if spreads:
        # A label may be given to cells of an unseen type alone, so the labels vote.
        most = calibration.everything.threshold(rate)
        expected = float(np.median([(mirrored < most).mean() for mirrored in spreads]))
        if rejection.recalibrate:
            # Of the mirrored halves: they hold each familiar cell once, and its mirror image is what is asked about.
            lowest = float(np.median([np.quantile(mirrored, rate) for mirrored in spreads]))
            limits = np.minimum(limits, lowest)
    rule = f"less familiar than {100 * (1 - rate):g}% of held-out known cells"
    if rejection.recalibrate:
        rule += ", as far as this query spreads" if spreads else " (too few cells to recalibrate)"
    return Decision(
        np.asarray(scores < limits[best]),
        familiarity,
        rule,
        unknown_rate=rate,
        recalibrated=rejection.recalibrate and bool(spreads),
        expected=expected,
    )


def _mirrored(scores: Floats) -> npt.NDArray[np.float64]:
    """Return the upper half of the scores of a label and its mirror image below the median, or none for few cells.

    Cells of unseen types that were given the label are less familiar than those that have it, so the upper half says
    how far known cells spread.
    """
    if len(scores) < MINIMUM_IN_QUERY:
        return np.empty(0)
    middle = float(np.median(scores))
    upper = scores[scores >= middle].astype(np.float64)
    return np.concatenate([upper, 2 * middle - upper])


def conformal_threshold(confidence: Floats, unknown_rate: float = DEFAULT_UNKNOWN_RATE) -> Thresholds:
    """Set a threshold on the largest probability that rejects at most a chosen share of known cells.

    With n calibration cells exchangeable with the query's known cells, the expected share of known cells below the
    threshold is at most ``floor(unknown_rate (n + 1)) / (n + 1)``, and thus at most ``unknown_rate``.

    Parameters
    ----------
    confidence
        Confidence of labelled cells that the model has not seen, shape (n,).
    unknown_rate
        Share of known cells that may be rejected, from 0 to 1.

    Raises
    ------
    ConfigError
        When ``unknown_rate`` is not a share.
    """
    check_rate(unknown_rate)
    rank = math.floor(unknown_rate * (len(confidence) + 1))  # cells that may fall below
    threshold = float(np.sort(confidence)[rank - 1]) if rank else 0.0
    return Thresholds(threshold, unknown_rate, len(confidence))


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


def confidence_of(probabilities: Floats) -> Floats:
    """Return each cell's confidence, its largest class probability: (n, classes) to (n,)."""
    confidence: Floats = probabilities.max(axis=1)
    return confidence


def is_unknown(confidence: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which cells fall below the threshold: (n,) to (n,).

    Raises
    ------
    ConfigError
        When the threshold is not a probability.
    """
    if not 0 <= threshold <= 1:
        msg = f"The threshold is {threshold}; expected a probability from 0 to 1."
        raise ConfigError(msg)
    return np.asarray(confidence < threshold)


def check_rate(unknown_rate: float) -> None:
    """Refuse a rate that is no share of the known cells.

    Raises
    ------
    ConfigError
        When it is not.
    """
    if not 0 <= unknown_rate < 1:
        msg = f"unknown_rate is {unknown_rate}; expected a share of at least 0 and below 1."
        raise ConfigError(msg)


def _calibration(values: Any, name: str) -> Calibration:
    """Read a calibration of ``thresholds.json``."""
    if not isinstance(values, dict) or values.keys() != {"everything", "labels", "temperature"}:
        msg = f"{name} in thresholds.json is no calibration. Get the reference again."
        raise DamagedReference(msg)
    temperature, labels = values["temperature"], values["labels"]
    if not _is_number(temperature) or not 0 < temperature < math.inf or not isinstance(labels, dict):
        msg = f"{name} in thresholds.json has the temperature {temperature!r}; expected a number above 0."
        raise DamagedReference(msg)
    own = {label: _scores(scores, f"{name}, {label}") for label, scores in labels.items()}
    return Calibration(_scores(values["everything"], name), own, temperature)


def _scores(values: Any, name: str) -> Scores:
    """Read the scores of a calibration."""
    is_table = isinstance(values, Mapping) and values.keys() == {"cells", "ranks", "values"}
    cells, ranks, scores = (values[key] for key in ("cells", "ranks", "values")) if is_table else (0, [], [])
    whole = isinstance(ranks, list) and all(type(rank) is int for rank in (cells, *ranks))
    if (
        not whole
        or not isinstance(scores, list)
        or not scores
        or len(scores) != len(ranks)
        or not all(_is_number(score) and math.isfinite(score) for score in scores)
        or scores != sorted(scores)
        or ranks != sorted(set(ranks))
        or not 1 <= ranks[0] <= ranks[-1] <= cells
    ):
        msg = f"The scores of {name} in thresholds.json are not ascending numbers with their ranks. Get it again."
        raise DamagedReference(msg)
    return Scores(cells, tuple(ranks), tuple(scores))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

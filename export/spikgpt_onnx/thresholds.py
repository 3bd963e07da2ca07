"""From class probabilities to a label or "Unknown".

A cell is Unknown when its confidence, the largest class probability, is below a threshold. Two thresholds are kept with
each reference: the paper's fixed 0.95, and one set so that a chosen share of known cells is rejected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt_onnx.errors import ConfigError, DamagedReference

UNKNOWN = "Unknown"
PAPER_THRESHOLD = 0.95
DEFAULT_UNKNOWN_RATE = 0.05

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Thresholds:
    """When a cell is Unknown.

    ``threshold`` is the default of the reference. At most about ``unknown_rate`` of the known cells fall below it, as
    measured on ``calibration_cells`` labelled cells that the measured model had not seen.
    """

    threshold: float
    unknown_rate: float
    calibration_cells: int
    paper_threshold: float = PAPER_THRESHOLD

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"method": "maximum probability", **vars(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Thresholds:
        """Read :meth:`to_dict`'s output.

        Raises
        ------
        DamagedReference
            When the method or the fields are not those of this format.
        """
        fields = {"method", "threshold", "unknown_rate", "calibration_cells", "paper_threshold"}
        if not isinstance(values, dict) or values.keys() != fields or values["method"] != "maximum probability":
            found = sorted(values) if isinstance(values, dict) else values
            msg = f"thresholds.json holds {found}; expected {sorted(fields)}, method 'maximum probability'."
            raise DamagedReference(msg)
        numbers = {name: value for name, value in values.items() if name != "method"}
        for name, value in numbers.items():
            largest = math.inf if name == "calibration_cells" else 1
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
                msg = f"{name} in thresholds.json is {value!r}; expected a number from 0 to {largest}."
                raise DamagedReference(msg)
        return cls(**numbers)


def conformal_threshold(confidence: Floats, unknown_rate: float = DEFAULT_UNKNOWN_RATE) -> Thresholds:
    """Set a threshold that rejects at most a chosen share of known cells (split conformal prediction).

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
    if not 0 <= unknown_rate < 1:
        msg = f"unknown_rate is {unknown_rate}; expected a share of at least 0 and below 1."
        raise ConfigError(msg)
    rank = math.floor(unknown_rate * (len(confidence) + 1))  # cells that may fall below
    threshold = float(np.sort(confidence)[rank - 1]) if rank else 0.0
    return Thresholds(threshold, unknown_rate, len(confidence))


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

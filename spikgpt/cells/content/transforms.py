"""Detect transformations of counts that can be undone, from ratios of the values of each cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

LOG_BASES = (math.e, 2.0, 10.0)
# Largest mean distance of a cell's values from multiples of its smallest value, in units of the smallest value. After
# the inverse of a wrong transformation the distance is about 0.2.
MULTIPLE = 0.005
# Largest distance of a ratio from a whole number. The ratio is that of a cell's two most frequent values, which are
# counts of 1 and 2.
RATIO_TOLERANCE = 0.02
# Largest distance from a whole number for the ratio of a third frequent value, which rules out a chance match. Rounding
# moves this ratio further from a whole number.
THIRD_TOLERANCE = 0.1
# A value is frequent if it makes up at least this share of a cell's values that are not 0. Number of cells sampled.
FREQUENT_SHARE, TIED_CELLS = 0.03, 200
# Exponents are capped at this value. Only a wrong inverse gives larger exponents.
LARGEST_EXPONENT = 80.0

Values = npt.NDArray[Any]


def _exp(values: Values) -> Values:
    return np.asarray(np.exp(np.minimum(values, LARGEST_EXPONENT)))


def _exp_twice(values: Values) -> Values:
    return np.expm1(np.minimum(np.expm1(np.minimum(values, 5)), LARGEST_EXPONENT))


INVERSES: dict[str, Callable[[Values], Values]] = {
    "logarithms of logarithms, ln(1 + ln(1 + value))": _exp_twice,
    "square roots": np.square,
    "inverse hyperbolic sines (arcsinh)": lambda values: np.sinh(np.minimum(values, LARGEST_EXPONENT)),
    "logarithms without 1 added, ln(value)": _exp,
    "logarithms without 1 added, log2(value)": lambda values: _exp(values * math.log(2)),
}


def multiples_distance(linear: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return the mean distance of each cell's values from multiples of its smallest value, shape (n,).

    The distance is in units of the smallest value. It is NaN for a cell without values of 1.5 to 20 units.
    """
    distances = np.full(linear.shape[0], np.nan)
    for row, (start, stop) in enumerate(zip(linear.indptr, linear.indptr[1:], strict=False)):
        cell = linear.data[start:stop]
        ratios = cell / cell.min() if cell.size else cell
        # Large ratios contain rounding errors, and ratios of 1 carry no information.
        telling = ratios[(ratios > 1.5) & (ratios < 20)]
        if telling.size:
            distances[row] = float(np.abs(telling - np.rint(telling)).mean())
    return distances


def frequent_values(sample: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return the two most frequent values of each cell, ascending, and a larger third value, shape (cells, 3).

    A cell without two frequent values has no row. No cell has a row if fewer than half of the cells have two frequent
    values. The third value is NaN if no larger value is frequent.
    """
    some, rows = sample[:: -(-sample.shape[0] // TIED_CELLS)], []
    for start, stop in zip(some.indptr, some.indptr[1:], strict=False):
        values, counts = np.unique(some.data[start:stop], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:3]
        frequent = values[order][counts[order] >= max(3, FREQUENT_SHARE * (stop - start))]
        if len(frequent) > 1:
            lower, upper = sorted(map(float, frequent[:2]))
            third = float(frequent[-1])
            rows.append((lower, upper, third if third > upper else np.nan))
    return np.array(rows if 2 * len(rows) >= some.shape[0] else [], dtype=np.float64).reshape(-1, 3)


def ratio_distance(frequent: npt.NDArray[np.float64], inverse: Callable[[Values], Values]) -> float:
    """Return the median distance of inverted frequent values from multiples of each cell's smallest frequent value.

    Parameters
    ----------
    frequent
        Result of :func:`frequent_values`, shape (cells, 3).
    inverse
        Inverse of a transformation of counts.
    """
    linear = inverse(frequent)
    ratios = linear[:, 1:] / linear[:, :1]
    second, third = (np.abs(ratios - np.rint(ratios)) + (np.rint(ratios) < 2)).T
    distance, third = float(np.median(second)), third[np.isfinite(third)]
    other = float(np.median(third)) if 2 * len(third) >= len(second) else 0.0
    return distance if other < THIRD_TOLERANCE else max(distance, other)


def known_inverse(pairs: npt.NDArray[np.float64]) -> str | None:
    """Return the transformation whose inverse makes the ratios of frequent values whole numbers; None for no match."""
    distances = {name: ratio_distance(pairs, inverse) for name, inverse in INVERSES.items()}
    best = min(distances, key=lambda name: distances[name])
    return best if distances[best] < RATIO_TOLERANCE else None

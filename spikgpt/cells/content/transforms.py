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
# Largest distance from a whole number of the ratio of a cell's two most frequent values, which are counts of 1 and 2.
RATIO_TOLERANCE = 0.02
# The same for a third value, whose ratio rules out chance. Rounding moves this ratio further.
THIRD_TOLERANCE = 0.1
# Least share of a frequent value among the values that are not 0, and the number of cells sampled.
FREQUENT_SHARE, TIED_CELLS = 0.03, 200
# Exponents are capped: large values matter only after the right inverse.
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
    """Return the distance of each cell's values from multiples of its smallest value, shape (n,); NaN if undecided."""
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
    """Return the two most frequent values of cells, in ascending order, and a larger third, shape (cells, 3).

    A cell without two frequent values has no row. No cell has a row if fewer than half of the cells have one. The third
    value is NaN if it is not frequent.
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
    """Return the distance of ``inverse`` of frequent values from multiples of the smallest, as median over cells."""
    linear = inverse(frequent)
    ratios = linear[:, 1:] / linear[:, :1]
    second, third = (np.abs(ratios - np.rint(ratios)) + (np.rint(ratios) < 2)).T
    distance, third = float(np.median(second)), third[np.isfinite(third)]
    other = float(np.median(third)) if 2 * len(third) >= len(second) else 0.0
    return distance if other < THIRD_TOLERANCE else max(distance, other)


def known_inverse(pairs: npt.NDArray[np.float64]) -> str | None:
    """Return the transformation whose inverse makes the ratios of frequent values whole, or None."""
    distances = {name: ratio_distance(pairs, inverse) for name, inverse in INVERSES.items()}
    best = min(distances, key=lambda name: distances[name])
    return best if distances[best] < RATIO_TOLERANCE else None

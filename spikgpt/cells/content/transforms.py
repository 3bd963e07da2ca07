"""Transformations of counts that can be undone, told by what they leave of whole numbers in each cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

LOG_BASES = (math.e, 2.0, 10.0)
# Values of a cell are multiples of its smallest where their mean distance from multiples is less than this, in units of
# the smallest; by any other transformation it is about 0.2.
MULTIPLE = 0.005
# The two most frequent values of a cell are one count and two, where their ratio is so close to a whole number.
RATIO_TOLERANCE = 0.02
# The ratio of a third value is whole, too, where the first ratio is not so by chance. Rounded values move it further.
THIRD_TOLERANCE = 0.1
# A value is frequent when it is this share of the values that are not 0. So many cells are looked at.
FREQUENT_SHARE, TIED_CELLS = 0.03, 200
# What large values become when a wrong transformation is undone does not matter.
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
    """Return how far the values of each cell are from multiples of its smallest, shape (n,); NaN where none tells."""
    distances = np.full(linear.shape[0], np.nan)
    for row, (start, stop) in enumerate(zip(linear.indptr, linear.indptr[1:], strict=False)):
        cell = linear.data[start:stop]
        ratios = cell / cell.min() if cell.size else cell
        # Large ratios carry the rounding of the stored value; ratios of one say nothing.
        telling = ratios[(ratios > 1.5) & (ratios < 20)]
        if telling.size:
            distances[row] = float(np.abs(telling - np.rint(telling)).mean())
    return distances


def frequent_values(sample: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return the two most frequent values of cells, in ascending order, and a larger third, shape (cells, 3).

    A cell without two frequent values has no row. If fewer than half of the cells have one, none has. The
    third is NaN where it is not frequent.
    """
    some, found = sample[:: -(-sample.shape[0] // TIED_CELLS)], []
    for start, stop in zip(some.indptr, some.indptr[1:], strict=False):
        values, counts = np.unique(some.data[start:stop], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:3]
        frequent = values[order][counts[order] >= max(3, FREQUENT_SHARE * (stop - start))]
        if len(frequent) > 1:
            lower, upper = sorted(map(float, frequent[:2]))
            third = float(frequent[-1])
            found.append((lower, upper, third if third > upper else np.nan))
    return np.array(found if 2 * len(found) >= some.shape[0] else [], dtype=np.float64).reshape(-1, 3)


def ratio_distance(frequent: npt.NDArray[np.float64], inverse: Callable[[Values], Values]) -> float:
    """Return how far the ratios of frequent values are from whole numbers; median over cells."""
    linear = inverse(frequent)
    ratios = linear[:, 1:] / linear[:, :1]
    second, third = (np.abs(ratios - np.rint(ratios)) + (np.rint(ratios) < 2)).T
    distance, third = float(np.median(second)), third[np.isfinite(third)]
    other = float(np.median(third)) if 2 * len(third) >= len(second) else 0.0
    return distance if other < THIRD_TOLERANCE else max(distance, other)


def known_inverse(pairs: npt.NDArray[np.float64]) -> str | None:
    """Return the transformation whose inverse makes whole ratios of frequent values, or None."""
    distances = {name: ratio_distance(pairs, inverse) for name, inverse in INVERSES.items()}
    best = min(distances, key=lambda name: distances[name])
    return best if distances[best] < RATIO_TOLERANCE else None

"""What a matrix holds: counts, linear values or logarithms, told from a sample of its cells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.matrices import check_sparse, read_rows
from spikgpt.errors import DataError
from spikgpt.types import Rows

Kind = Literal["counts", "linear", "log"]

# Cells looked at to tell what a matrix holds.
SAMPLE_CELLS = 1000
# Numbers closer to an integer than this are that integer.
INTEGER_TOLERANCE = 1e-6
# Log values do not reach this in any base in use: 2**25 is more counts than any cell has.
LARGEST_LOG = 25.0
# The natural log of a million and one, which no cell's gene exceeds even as counts per million.
LARGEST_NATURAL_LOG = math.log1p(1e6)
LOG_BASES = (math.e, 2.0, 10.0)
# Row sums within this share of each other are one constant.
CONSTANT_SPREAD = 0.01
# Sums of fewer cells may agree by chance.
TELLING_CELLS = 10


@dataclass(frozen=True)
class Content:
    """What a matrix holds; nothing but ``problem`` counts when that says what is wrong with it."""

    kind: Kind = "counts"
    problem: str = ""
    log_base: float | None = None
    target_sum: float | None = None
    notes: tuple[str, ...] = ()


def content_of(matrix: Any, columns: Rows | None = None) -> Content:
    """Tell what a matrix holds from evenly spaced rows, by default of all columns."""
    n_cells = matrix.shape[0]
    try:
        check_sparse(matrix, "The expression matrix")
        rows = np.unique(np.linspace(0, n_cells - 1, min(n_cells, SAMPLE_CELLS)).astype(np.int64))
        sample = read_rows(matrix, rows, columns)
    except DataError as error:
        return Content(problem=f"cannot be used ({error})")
    values = sample.data.astype(np.float64)
    if problem := _problem(values):
        return Content(problem=problem)
    if (np.abs(values - np.rint(values)) <= INTEGER_TOLERANCE).all():
        binary = values.max() == 1
        return Content("counts", notes=("The counts are all 0 or 1; were they binarised?",) if binary else ())
    if values.max() > LARGEST_LOG or (sample.shape[0] >= TELLING_CELLS and _constant_sum(sample) is not None):
        return Content("linear")
    base = _log_base(sample)
    linear = linear_values(sample, base)
    target_sum = _constant_sum(linear)
    return Content("log", log_base=base, target_sum=target_sum, notes=tuple(_log_notes(linear, base, target_sum)))


def linear_values(rows: sparse.csr_matrix, log_base: float | None) -> sparse.csr_matrix:
    """Return linear values, float64 with the precision of float32, undoing log(1 + linear) if there is a base."""
    linear = rows.astype(np.float64)
    if log_base is not None:
        linear.data = np.expm1(linear.data * math.log(log_base)).astype(np.float32).astype(np.float64)
    return linear


def row_sums(linear: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return the sum of each row, shape (n,), in a way that does not depend on the order of columns.

    Whole numbers add up exactly as they are. Others are rounded to a grid of 2**-32 times the row's largest power of
    two: sums on the grid are exact in float64 for up to a million genes.
    """
    if (np.rint(linear.data) == linear.data).all():
        return np.asarray(linear.sum(axis=1), dtype=np.float64).ravel()
    largest = linear.max(axis=1).toarray().ravel()
    grid = np.repeat(np.ldexp(1.0, np.frexp(largest)[1] - 32), np.diff(linear.indptr))
    rounded = sparse.csr_matrix((np.rint(linear.data / grid) * grid, linear.indices, linear.indptr), shape=linear.shape)
    return np.asarray(rounded.sum(axis=1), dtype=np.float64).ravel()


def _problem(values: npt.NDArray[np.float64]) -> str:
    """Say what makes the non-zero values of a sample unusable; empty when nothing does."""
    if not values.size:
        return "holds only zeros"
    if not np.isfinite(values).all():
        return "holds NaN or infinite values"
    if values.min() >= 0:
        return ""
    if values.max() > 0:
        return f"holds negative values (down to {values.min():.3g}), as scaled or centred data does"
    return f"holds negative values (down to {values.min():.3g}) and no positive ones"


def _log_base(sample: sparse.csr_matrix) -> float:
    """Return the base for which the values of a sample are log(1 + linear).

    In the right base the values of a cell are multiples of its smallest (one count), or all cells have one sum.
    """
    if sample.data.max() > LARGEST_NATURAL_LOG:
        return 2.0
    distances = {base: _distance_to_multiples(linear_values(sample, base)) for base in LOG_BASES}
    best = min(LOG_BASES, key=lambda base: distances[base])
    if distances[best] < 0.005:
        return best
    if sample.shape[0] >= TELLING_CELLS:
        for base in LOG_BASES:
            if _constant_sum(linear_values(sample, base)) is not None:
                return base
    return math.e


def _distance_to_multiples(linear: sparse.csr_matrix) -> float:
    """Return how far the values of a cell are from multiples of its smallest, at most 0.5; median over cells."""
    distances = []
    for start, stop in zip(linear.indptr, linear.indptr[1:], strict=False):
        cell = linear.data[start:stop]
        ratios = cell / cell.min() if cell.size else cell
        # Large ratios carry the rounding of the stored value; ratios of one say nothing.
        telling = ratios[(ratios > 1.5) & (ratios < 20)]
        if telling.size:
            distances.append(float(np.abs(telling - np.rint(telling)).mean()))
    return float(np.median(distances)) if distances else 0.5


def _constant_sum(linear: sparse.csr_matrix) -> float | None:
    """Return the sum that all cells with any value share, or None."""
    sums = row_sums(linear.astype(np.float64))
    sums = sums[sums > 0]
    middle = float(np.median(sums))
    return middle if float(np.ptp(sums)) <= CONSTANT_SPREAD * middle else None


def _log_notes(linear: sparse.csr_matrix, base: float, target_sum: float | None) -> Iterable[str]:
    """Say what is suspicious in log values."""
    if base != math.e:
        yield f"The values were taken for logarithms to base {base:g}."
    whole = np.abs(linear.data - np.rint(linear.data)) <= 1e-3 * np.maximum(1, linear.data)
    if target_sum is None and not whole.all():
        yield (
            "The cells have no common total behind the logarithm: genes were left out after normalisation, or it was "
            "of another kind. Labels from raw counts would be more certain."
        )

"""Detect the unit of a matrix, counts, linear values or logarithms, from a sample of its cells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.content.scaling import gene_scaling, missing_zeros, no_counts
from spikgpt.cells.content.transforms import (
    INVERSES,
    LOG_BASES,
    MULTIPLE,
    RATIO_TOLERANCE,
    frequent_values,
    known_inverse,
    multiples_distance,
    ratio_distance,
)
from spikgpt.cells.matrices import check_sparse, read_rows, sampled_rows
from spikgpt.errors import DataError
from spikgpt.types import Bools, Rows

Kind = Literal["counts", "linear", "log"]

# Numbers closer to an integer than this count as whole.
INTEGER_TOLERANCE = 1e-6
# :func:`spikgpt.cells.expression.find_expression` gives a remedy of its own for this problem.
NOT_FINITE = "holds NaN or infinite values"
# Upper limit of log values in any base in use: no cell has 2**25 counts.
LARGEST_LOG = 25.0
# Upper limit of natural logs: counts per million do not exceed a million.
LARGEST_NATURAL_LOG = math.log1p(1e6)
# Row sums within this share of each other count as constant.
CONSTANT_SPREAD = 0.01
# Smallest number of cells for a common sum: the sums of fewer cells may agree by chance.
TELLING_CELLS = 10
# Smallest share of cells in another unit that is reported.
MIXED_SHARE = 0.02
# Share of cells that must fit one of two bases of logarithms. Distance from multiples above which a cell excludes a
# base.
CLEAR_SHARE, FAR = 0.6, 0.05
# A matrix with at least WHOLE_TRANSCRIPTOME genes is unfiltered if more than a share of MOST_DROPLETS of its cells have
# fewer than LEAST_COUNTS counts.
WHOLE_TRANSCRIPTOME, MOST_DROPLETS, LEAST_COUNTS = 5000, 0.5, 100
# The largest logarithm of a cell is at most FLAT times the cell's mean. In linear values this ratio is GAP times
# larger.
FLAT, GAP = 8.0, 4.0


@dataclass(frozen=True)
class Content:
    """The unit of a matrix; with a ``problem`` the matrix cannot be read.

    ``linear`` values with a ``log_base`` are mixed: the cells that :func:`log_cells` marks hold logarithms. ``inverse``
    is the name of another transformation of all values, one of ``INVERSES``. ``mixed`` is True if the problem is that
    cells have several units; the cells of each unit could be read separately.
    """

    kind: Kind = "counts"
    problem: str = ""
    log_base: float | None = None
    target_sum: float | None = None
    notes: tuple[str, ...] = ()
    inverse: str | None = None
    mixed: bool = False


def content_of(matrix: Any, columns: Rows | None = None) -> Content:
    """Detect the unit of a matrix from a sample of its rows; ``columns`` are the columns to read, None for all."""
    try:
        check_sparse(matrix, "The expression matrix")
        sample = read_rows(matrix, sampled_rows(matrix.shape[0]), columns)
    except DataError as error:
        return Content(problem=f"cannot be used ({error})")
    values = sample.data.astype(np.float64)
    if problem := _problem(values) or missing_zeros(sample):
        return Content(problem=problem)
    whole = whole_cells(sample)
    if (np.abs(values - np.rint(values)) <= INTEGER_TOLERANCE).all():
        binary = values.max() == 1
        notes = ("The counts are all 0 or 1; were they binarised?",) if binary else _unfiltered(sample)
        return Content("counts", problem=no_counts(sample), notes=notes)
    small = small_cells(sample) & ~whole
    constant = sample.shape[0] >= TELLING_CELLS and _constant_sum(sample) is not None
    if constant or not small.any():
        return _linear(sample, whole, constant=constant)
    if values.max() > LARGEST_LOG or (whole & (np.diff(sample.indptr) > 0)).any():
        return _mixed(sample, small, whole)
    return _logs(sample)


def _unfiltered(sample: sparse.csr_matrix) -> tuple[str, ...]:
    """Return a note if all genes were measured and most cells still have few counts, as in an unfiltered matrix."""
    if sample.shape[1] < WHOLE_TRANSCRIPTOME:
        return ()
    share = float((row_sums(sample) < LEAST_COUNTS).mean())
    if share <= MOST_DROPLETS:
        return ()
    note = (
        f"About {100 * share:.0f}% of the cells have fewer than {LEAST_COUNTS} counts, as empty droplets do. Use the "
        "filtered matrix (filtered_feature_bc_matrix of Cell Ranger), or remove the empty droplets."
    )
    return (note,)


def whole_cells(rows: sparse.csr_matrix) -> Bools:
    """Return True for the cells that hold only whole numbers, shape (n,)."""
    return _without(rows, np.abs(rows.data - np.rint(rows.data)) > INTEGER_TOLERANCE)


def small_cells(rows: sparse.csr_matrix) -> Bools:
    """Return True for the cells whose values are all small enough for logarithms, shape (n,)."""
    return _without(rows, rows.data > LARGEST_LOG)


def _without(rows: sparse.csr_matrix, marked: Bools) -> Bools:
    """Return True for the cells without a marked value, shape (n,); ``marked`` has one item for each stored value."""
    free = np.ones(rows.shape[0], dtype=bool)
    if marked.any():
        filled = np.diff(rows.indptr) > 0
        free[filled] = ~np.logical_or.reduceat(marked, rows.indptr[:-1][filled])
    return free


def log_cells(rows: sparse.csr_matrix, log_base: float, *, mixed: bool) -> Bools:
    """Return True for the cells that hold logarithms, shape (n,), in a matrix of logarithms or of ``mixed`` units.

    A cell of whole numbers is taken for counts. The exception is a matrix of logarithms to base 2: log2(1 + n) is whole
    for n = 1, 3 or 7.
    """
    small = small_cells(rows)
    return small & ~whole_cells(rows) if mixed or log_base != 2.0 else small


def linear_values(rows: sparse.csr_matrix, log_base: float | None) -> sparse.csr_matrix:
    """Return linear values, float64, from logarithms to the base ``log_base``, log(1 + linear).

    The result has float32 precision. If the base is None, the rows already hold linear values.
    """
    linear = rows.astype(np.float64)
    if log_base is not None:
        linear.data = np.expm1(linear.data * math.log(log_base)).astype(np.float32).astype(np.float64)
    return linear


def untransformed(rows: sparse.csr_matrix, content: Content) -> sparse.csr_matrix:
    """Return linear values of rows with the unit ``content``, also for mixed units and for other transformations."""
    if content.inverse:
        linear = rows.astype(np.float64)
        linear.data = INVERSES[content.inverse](linear.data).astype(np.float32).astype(np.float64)
        return linear
    if content.log_base is None:
        return linear_values(rows, None)
    logs = log_cells(rows, content.log_base, mixed=content.kind == "linear")
    if logs.all():
        return linear_values(rows, content.log_base)
    of_logs = logs[_cell_numbers(rows)]
    linear = rows.astype(np.float64)
    linear.data[of_logs] = linear_values(rows[logs], content.log_base).data
    return linear


def row_sums(linear: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Return the sum of each row, shape (n,), independent of the order of columns.

    Sums of whole numbers are exact. Other values are rounded to a grid of 2**-32 times the row's largest power of two.
    Sums on the grid are exact in float64 for up to a million genes.
    """
    if (np.rint(linear.data) == linear.data).all():
        return np.asarray(linear.sum(axis=1), dtype=np.float64).ravel()
    largest = linear.max(axis=1).toarray().ravel()
    grid = np.repeat(np.ldexp(1.0, np.frexp(largest)[1] - 32), np.diff(linear.indptr))
    rounded = sparse.csr_matrix((np.rint(linear.data / grid) * grid, linear.indices, linear.indptr), shape=linear.shape)
    return np.asarray(rounded.sum(axis=1), dtype=np.float64).ravel()


def _problem(values: npt.NDArray[np.float64]) -> str:
    """Return a phrase if the values of a sample that are not 0 cannot be used; otherwise an empty text."""
    if not values.size:
        return "holds only zeros"
    if not np.isfinite(values).all():
        return NOT_FINITE
    if values.min() >= 0:
        return ""
    if values.max() > 0:
        return f"holds negative values (down to {values.min():.3g}), as scaled or centred data does"
    return f"holds negative values (down to {values.min():.3g}) and no positive ones"


def _linear(sample: sparse.csr_matrix, whole: Bools, *, constant: bool = False) -> Content:
    """Detect the unit of a sample whose values are not logarithms.

    ``whole``, shape (n,), is True for the cells of whole numbers. ``constant`` is True if all cells have the same sum.
    """
    share = float(whole[np.diff(sample.indptr) > 0].mean())
    if MIXED_SHARE < share < 1 - MIXED_SHARE:
        rest = sample[~whole]
        rest_content = _linear(rest, whole_cells(rest))
        counts = f"{100 * share:.0f}% of the cells hold counts, the others"
        if rest_content.inverse:
            return Content(problem=f"is of two kinds: {counts} {rest_content.inverse}", mixed=True)
        note = f"{counts} normalised values; each was read as such."
        return rest_content if rest_content.problem else Content("linear", notes=(note,))
    if _is_multiple(sample):
        return Content("linear")
    pairs = frequent_values(sample)
    if len(pairs):
        return Content("linear") if ratio_distance(pairs, np.asarray) < RATIO_TOLERANCE else _transformed(pairs)
    return Content("linear", problem="" if constant else gene_scaling(sample))


def _logs(sample: sparse.csr_matrix) -> Content:
    """Detect the unit of a sample whose values are small enough for logarithms."""
    distances = {base: multiples_distance(linear_values(sample, base)) for base in LOG_BASES}
    if problem := _two_bases(sample, distances):
        return Content(problem=problem, mixed=True)
    base, evidence = _log_base(sample, distances)
    if problem := _odd_cells(sample, distances[base]):
        return Content(problem=problem, mixed=True)
    if evidence != "multiples":
        pairs = frequent_values(sample)
        if len(pairs):
            ratios = {base: ratio_distance(pairs, partial(_undo_log, base=base)) for base in LOG_BASES}
            if ratio_distance(pairs, np.asarray) < RATIO_TOLERANCE:
                return Content("linear")
            if min(ratios.values()) >= RATIO_TOLERANCE:
                return _transformed(pairs)
            base = base if base == 2.0 else min(LOG_BASES, key=lambda base: ratios[base])
        elif not evidence and (problem := gene_scaling(sample)):
            return Content(problem=problem)
    linear = linear_values(sample, base)
    target_sum = _constant_sum(linear)
    return Content("log", log_base=base, target_sum=target_sum, notes=tuple(_log_notes(linear, base, target_sum)))


def _mixed(sample: sparse.csr_matrix, small: Bools, whole: Bools) -> Content:
    """Detect the unit of a sample in which only the cells marked in ``small``, shape (n,), may hold logarithms."""
    rest = ~small & (np.diff(sample.indptr) > 0)
    some = sample[small]
    logs = _logs(some)
    if logs.log_base == 2.0 and small_cells(sample).all():
        # Cells with few counts may hold only whole numbers as logarithms to base 2.
        return _logs(sample)
    share = f"{100 * small.sum() / (small | rest).sum():.0f}%"
    _, evidence = _log_base(some, {base: multiples_distance(linear_values(some, base)) for base in LOG_BASES})
    if logs.kind == "log" and not logs.problem and evidence:
        base = "e" if logs.log_base == math.e else f"{logs.log_base:g}"
        note = f"{share} of the cells hold logarithms to base {base}, the others linear values; each was read as such."
        return Content("linear", log_base=logs.log_base, notes=(note,))
    other = _linear(sample, whole)
    if other.inverse or other.problem or (logs.kind == "linear" and not logs.inverse and not logs.problem):
        return other
    # The largest logarithm of a cell is close to the cell's mean, the largest count is not.
    peaks = sample.max(axis=1).toarray().ravel() * np.diff(sample.indptr) / np.maximum(_sums(sample), 1e-12)
    if np.median(peaks[small]) > FLAT or np.median(peaks[rest]) < GAP * np.median(peaks[small]):
        return other
    ranges = f"up to {some.data.max():.3g} in {share} of the cells and up to {sample.data.max():.3g} in the others"
    return Content(problem=f"holds values {ranges}, as parts that were normalised differently do", mixed=True)


def _transformed(pairs: npt.NDArray[np.float64]) -> Content:
    """Return the unit of values that repeat within a cell like counts, but are neither counts nor logarithms."""
    if inverse := known_inverse(pairs):
        return Content("linear", inverse=inverse, notes=(f"The values were taken for {inverse}, which was undone.",))
    return Content(
        problem="holds values that repeat within a cell as counts do, and are neither counts nor their logarithms, as "
        "after two transformations"
    )


def _is_multiple(linear: sparse.csr_matrix) -> bool:
    return _median_distance(multiples_distance(linear)) < MULTIPLE


def _odd_cells(sample: sparse.csr_matrix, distances: npt.NDArray[np.float64]) -> str:
    """Return a phrase if some cells hold no logarithms while the other cells do; otherwise an empty text.

    Parameters
    ----------
    distances
        Result of :func:`multiples_distance` for values that are read as logarithms, shape (n,).
    """
    odd = np.isfinite(distances) & (distances > FAR)
    if not MIXED_SHARE < odd.mean() < 1 - MIXED_SHARE:
        return ""
    pairs = frequent_values(sample[odd])
    logs = [ratio_distance(pairs, partial(_undo_log, base=base)) for base in LOG_BASES if len(pairs)]
    if not len(pairs) or min(logs) < RATIO_TOLERANCE or not (inverse := known_inverse(pairs)):
        return ""
    return f"is of two kinds: {100 * odd.mean():.0f}% of the cells hold {inverse}, the others logarithms"


def _two_bases(sample: sparse.csr_matrix, distances: dict[float, npt.NDArray[np.float64]]) -> str:
    """Return a phrase if the cells hold logarithms to two bases; otherwise an empty text."""
    telling = np.isfinite(np.stack(list(distances.values()))).all(axis=0)
    cells = {base: telling & (distances[base] < MULTIPLE) & _far(distances, base) for base in LOG_BASES}
    n_cells = int(telling.sum())
    if sum(mask.sum() for mask in cells.values()) < CLEAR_SHARE * n_cells:
        n_cells = sample.shape[0]
        cells = {base: _of_one_sum(linear_values(sample, base)) for base in LOG_BASES}
    if n_cells < TELLING_CELLS:
        return ""
    first, second = sorted(LOG_BASES, key=lambda base: -cells[base].sum())[:2]
    shares = {first: cells[first].sum() / n_cells, second: (cells[second] & ~cells[first]).sum() / n_cells}
    if shares[second] < MIXED_SHARE or sum(shares.values()) < CLEAR_SHARE:
        return ""
    named = (f"base {'e' if base == math.e else f'{base:g}'} in {100 * share:.0f}%" for base, share in shares.items())
    return f"holds logarithms to {' and to '.join(named)} of the cells"


def _far(distances: dict[float, npt.NDArray[np.float64]], base: float) -> Bools:
    """Return True for the cells whose values exclude all bases other than ``base``, shape (n,)."""
    return np.asarray(np.all([distances[other] > FAR for other in LOG_BASES if other != base], axis=0))


def _of_one_sum(linear: sparse.csr_matrix) -> Bools:
    """Return True for the cells of the largest group with one common sum, shape (n,)."""
    sums = _sums(linear)
    ordered = np.sort(sums[sums > 0])
    ends = np.searchsorted(ordered, ordered * (1 + CONSTANT_SPREAD), side="right")
    least = ordered[int((ends - np.arange(len(ordered))).argmax())]
    return np.asarray((sums >= least) & (sums <= least * (1 + CONSTANT_SPREAD)))


def _log_base(sample: sparse.csr_matrix, distances: dict[float, npt.NDArray[np.float64]]) -> tuple[float, str]:
    """Return the base of log(1 + linear) of a sample, and the evidence: ``multiples``, ``sums`` or an empty text.

    With the right base, a cell's linear values are multiples of its smallest value (one count), or all cells have one
    sum.
    """
    by_base = {base: _median_distance(distances[base]) for base in LOG_BASES}
    large = sample.data.max() > LARGEST_NATURAL_LOG
    best = 2.0 if large else min(LOG_BASES, key=lambda base: by_base[base])
    if by_base[best] < MULTIPLE:
        return best, "multiples"
    if sample.shape[0] >= TELLING_CELLS:
        for base in (2.0,) if large else LOG_BASES:
            if _constant_sum(linear_values(sample, base)) is not None:
                return base, "sums"
    return (2.0 if large else math.e), ""


def _median_distance(distances: npt.NDArray[np.float64]) -> float:
    """Return the median of the distances that are not NaN; 0.5 if all are NaN."""
    distances = distances[np.isfinite(distances)]
    return float(np.median(distances)) if distances.size else 0.5


def _undo_log(values: npt.NDArray[Any], base: float) -> npt.NDArray[np.float64]:
    return np.asarray(np.expm1(values * math.log(base)))


def _sums(rows: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    return np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()


def _cell_numbers(rows: sparse.csr_matrix) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))


def _constant_sum(linear: sparse.csr_matrix) -> float | None:
    """Return the common sum of all cells that are not empty; None if their sums differ."""
    sums = row_sums(linear.astype(np.float64))
    sums = sums[sums > 0]
    middle = float(np.median(sums))
    return middle if float(np.ptp(sums)) <= CONSTANT_SPREAD * middle else None


def _log_notes(linear: sparse.csr_matrix, base: float, target_sum: float | None) -> Iterable[str]:
    """Yield sentences on suspicious log values."""
    if base != math.e:
        yield f"The values were taken for logarithms to base {base:g}."
    whole = np.abs(linear.data - np.rint(linear.data)) <= 1e-3 * np.maximum(1, linear.data)
    if target_sum is None and not whole.all():
        yield (
            "These log values do not add up to one total per cell. Were genes removed after normalising? Raw counts "
            "give more certain labels."
        )

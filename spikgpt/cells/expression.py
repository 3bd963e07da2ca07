"""Reading, checking and aligning cells: from an AnnData to linear values of a reference's genes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.genes import Frame, GeneList, GeneMatch, match_genes
from spikgpt.errors import DataError

Kind = Literal["counts", "linear", "log"]

# Layers looked at when none is asked for, in this order. "spliced" is not among them: it lacks a part of the counts.
COUNT_LAYERS = ("counts", "raw_counts", "count", "raw", "umi_counts", "umi", "UMIs")
LOG_LAYERS = ("logcounts", "log1p", "lognorm", "log_normalized", "log_normalised", "data")

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
# X with fewer of raw's genes than this is a selection of variable genes, and raw is the data.
SUBSET_SHARE = 0.5

REMEDY = (
    "SpikGPT reads raw counts or log-normalised values. Scaling cannot be undone: take the counts from before it, put "
    "them into layers['counts'] or raw, or name the layer that holds them."
)


class Cells(Protocol):
    """What is read of an AnnData; :class:`spikgpt.cells.h5ad.H5adFile` offers it too, without the anndata package."""

    @property
    def n_obs(self) -> int:
        """Number of cells."""

    @property
    def n_vars(self) -> int:
        """Number of genes."""

    @property
    def obs_names(self) -> Any:
        """Names of the cells, by index."""

    @property
    def var(self) -> Frame:
        """Names of the genes."""

    @property
    def X(self) -> Any:
        """Matrix of cells and genes, or None."""

    @property
    def layers(self) -> Mapping[str, Any]:
        """Other matrices of the same shape."""

    @property
    def obsm(self) -> Mapping[str, Any]:
        """Embeddings of the cells."""

    @property
    def raw(self) -> Any:
        """A matrix ``X`` of the same cells with a ``var`` of its own, or None."""


@dataclass(frozen=True)
class Expression:
    """The expression values of n cells that were chosen from an AnnData, still unread.

    Attributes
    ----------
    matrix
        The matrix behind ``source``, shape (n_cells, genes of ``var``): dense, CSR, or on disk.
    source
        ``X``, ``layers['NAME']`` or ``raw``.
    kind
        ``counts`` are whole numbers; ``linear`` are counts up to a factor a cell (CPM, TPM, corrected counts); ``log``
        are log(1 + linear). Log values that are all whole numbers would be taken for counts.
    log_base
        Base of the logarithm, None unless ``kind`` is ``log``.
    target_sum
        The sum that every cell was scaled to before the logarithm, None when there is no such constant.
    notes
        Whole sentences on anything suspicious.
    """

    adata: Cells
    matrix: Any
    source: str
    kind: Kind
    log_base: float | None
    target_sum: float | None
    var: Frame
    n_cells: int
    notes: tuple[str, ...] = ()

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells from ``start`` to before ``stop`` as they are stored, float32, without explicit zeros.

        Raises
        ------
        DataError
            When a value is negative, not finite, or no logarithm among logarithms.
        """
        rows = _read(self.matrix, slice(start, stop))
        for wrong, what in (
            (~np.isfinite(rows.data), "a NaN or infinite value"),
            (rows.data < 0, "a negative value"),
            ((rows.data > LARGEST_LOG) & (self.kind == "log"), "a value too large for a logarithm, unlike other cells"),
        ):
            if wrong.any():
                first = int(wrong.argmax())
                row = start + int(np.searchsorted(rows.indptr, first, side="right")) - 1
                cell = f"cell {self.adata.obs_names[row]!r} (row {row})"
                msg = f"{self.source} holds {what} ({rows.data[first]:g}) in {cell}. {REMEDY}"
                raise DataError(msg)
        return rows


@dataclass(frozen=True)
class AlignedCells:
    """Linear values of n cells for the G genes of a reference.

    Neither the order of the query's genes, nor how they are named, nor how the matrix is stored changes a bit of it.

    Attributes
    ----------
    values
        Counts, or linear values where the query holds no counts, shape (n, G), float32, indices sorted.
    totals
        Sum of the linear values of all the query's genes, shape (n,).
    found
        Whether the query has the gene, shape (G,).
    notes
        Whole sentences on anything suspicious.
    """

    values: sparse.csr_matrix
    totals: npt.NDArray[np.float64]
    found: npt.NDArray[np.bool_]
    match: GeneMatch
    kind: Kind
    notes: tuple[str, ...]

    @property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Whether the cell's total is 0, shape (n,)."""
        return np.asarray(self.totals == 0)

    def part(self, cells: slice | npt.NDArray[Any]) -> AlignedCells:
        """Return some of the cells, by a slice, a mask or their indices."""
        return replace(self, values=self.values[cells], totals=self.totals[cells])


def find_expression(adata: Cells, *, layer: str | None = None) -> Expression:
    """Choose the values that are to be read, and tell what they are from a sample of cells.

    Counts are preferred to linear and log values, and X to layers to raw. A place with less than half the genes of
    another, such as X after a selection of variable genes, comes last: totals need all genes.

    Parameters
    ----------
    layer
        Read this layer and no other place.

    Raises
    ------
    DataError
        When there are no cells or genes, no such layer, or no values that can be read.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = f"The AnnData has {adata.n_obs} cells and {adata.n_vars} genes; it needs at least one of each."
        raise DataError(msg)
    places = _places(adata, layer)
    contents = [_content_of(place.matrix) for place in places]
    usable = [index for index, content in enumerate(contents) if not content.problem]
    if not usable:
        found = "; ".join(f"{place.source} {content.problem}" for place, content in zip(places, contents, strict=True))
        msg = f"No expression values can be read: {found or 'X is missing'}. {_other_layers(adata)}{REMEDY}"
        raise DataError(msg)
    widest = max(len(places[index].var) for index in usable)
    complete = [index for index in usable if len(places[index].var) >= SUBSET_SHARE * widest]
    chosen = next((index for index in complete if contents[index].kind == "counts"), complete[0])
    place, content = places[chosen], contents[chosen]
    return Expression(
        adata=adata,
        # Rows of a CSC matrix are slow to read, so it is turned once.
        matrix=_by_rows(place.matrix),
        source=place.source,
        kind=content.kind,
        log_base=content.log_base,
        target_sum=content.target_sum,
        var=place.var,
        n_cells=adata.n_obs,
        notes=tuple(_notes(places, contents, chosen)),
    )


def aligned_chunks(
    expression: Expression, genes: GeneList, *, minimum_share: float = 0.1, chunk_size: int = 4096
) -> Iterator[AlignedCells]:
    """Bring cells to the genes of a reference, a few at a time; genes that the query lacks are 0.

    Parameters
    ----------
    minimum_share
        Share of the genes to be found, at least.
    chunk_size
        Cells read at a time.

    Raises
    ------
    GenesError
        When too few of the reference's genes are in the query.
    DataError
        When a value cannot be read.
    """
    match = match_genes(expression.var, genes, minimum_share=minimum_share)
    for start in range(0, expression.n_cells, chunk_size):
        stop = min(start + chunk_size, expression.n_cells)
        linear = _linear(expression.rows(start, stop), expression.log_base)
        values = sparse.csr_matrix((linear @ match.selection).astype(np.float32))
        values.eliminate_zeros()
        values.sort_indices()
        yield AlignedCells(
            values=values,
            totals=_row_sums(linear),
            found=match.found,
            match=match,
            kind=expression.kind,
            notes=expression.notes + match.notes,
        )


def align(
    expression: Expression,
    genes: GeneList,
    *,
    minimum_share: float = 0.1,
    chunk_size: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> AlignedCells:
    """Bring all cells to the genes of a reference; see :func:`aligned_chunks`.

    Parameters
    ----------
    progress
        Called after each chunk with the number of cells done.
    """
    chunks = []
    for chunk in aligned_chunks(expression, genes, minimum_share=minimum_share, chunk_size=chunk_size):
        chunks.append(chunk)
        if progress is not None:
            progress(min(len(chunks) * chunk_size, expression.n_cells))
    return joined(chunks)


def joined(chunks: list[AlignedCells]) -> AlignedCells:
    """Return the cells of several chunks of one query, in order; at least one chunk."""
    return replace(
        chunks[0],
        values=sparse.csr_matrix(sparse.vstack([chunk.values for chunk in chunks], format="csr")),
        totals=np.concatenate([chunk.totals for chunk in chunks]),
    )


def log_normalise(
    values: sparse.csr_matrix, totals: npt.NDArray[np.float64], target_sum: float = 1e4
) -> sparse.csr_matrix:
    """Return ln(1 + value * target_sum / total), float32.

    Parameters
    ----------
    values
        Linear values, shape (n, G).
    totals
        The total of each cell over all its genes, shape (n,). A cell with a total of 0 stays 0.
    """
    factors = np.divide(target_sum, totals, out=np.zeros(len(totals)), where=totals > 0)
    normalised = values.astype(np.float64)
    normalised.data = np.log1p(normalised.data * np.repeat(factors, np.diff(normalised.indptr)))
    return normalised.astype(np.float32)


def mean_and_std(logs: sparse.csr_matrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean and the standard deviation of each gene, (n, G) to two of (G,)."""
    values = logs.astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    squares = np.asarray(values.multiply(values).mean(axis=0)).ravel()
    return mean, np.sqrt(np.maximum(squares - mean**2, 0.0))


@dataclass(frozen=True)
class _Place:
    """A matrix of an AnnData that may hold expression values."""

    source: str
    matrix: Any
    var: Frame


@dataclass(frozen=True)
class _Content:
    """What a matrix holds; nothing but ``problem`` counts when that says what is wrong with it."""

    kind: Kind = "counts"
    problem: str = ""
    log_base: float | None = None
    target_sum: float | None = None
    notes: tuple[str, ...] = ()


def _places(adata: Cells, layer: str | None) -> list[_Place]:
    """Return the places to look at, in order of preference."""
    if layer is not None:
        if layer not in adata.layers:
            msg = f"There is no layer {layer!r}; the layers are {listed(adata.layers)}. Name one of them, or none."
            raise DataError(msg)
        return [_Place(f"layers[{layer!r}]", adata.layers[layer], adata.var)]
    places = [] if adata.X is None else [_Place("X", adata.X, adata.var)]
    for name in COUNT_LAYERS + LOG_LAYERS:
        if name in adata.layers:
            places.append(_Place(f"layers[{name!r}]", adata.layers[name], adata.var))
    if adata.raw is not None:
        places.append(_Place("raw", adata.raw.X, adata.raw.var))
    return places


def _read(matrix: Any, index: slice | npt.NDArray[np.int64]) -> sparse.csr_matrix:
    """Return some rows in memory, float32, canonical, sharing nothing with ``matrix``."""
    try:
        part = matrix[index]
    except OSError as error:
        msg = f"The expression matrix cannot be read from disk: {error}. The file is damaged; copy or write it again."
        raise DataError(msg) from error
    part = part if sparse.issparse(part) else np.asarray(part)
    if part.dtype.kind not in "biuf":
        msg = f"The expression matrix holds {part.dtype} values; expected numbers."
        raise DataError(msg)
    with np.errstate(over="ignore"):
        rows = sparse.csr_matrix(part).astype(np.float32, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def _by_rows(matrix: Any) -> Any:
    """Return a matrix whose rows are quick to read."""
    if getattr(matrix, "format", "") == "csc" and not sparse.issparse(matrix):
        matrix = matrix.to_memory()
    return matrix.tocsr() if sparse.issparse(matrix) else matrix


def _content_of(matrix: Any) -> _Content:
    """Tell what a matrix holds from evenly spaced rows."""
    n_cells = matrix.shape[0]
    try:
        sample = _read(matrix, np.unique(np.linspace(0, n_cells - 1, min(n_cells, SAMPLE_CELLS)).astype(np.int64)))
    except DataError as error:
        return _Content(problem=f"cannot be used ({error})")
    values = sample.data.astype(np.float64)
    if problem := _problem(values):
        return _Content(problem=problem)
    if (np.abs(values - np.rint(values)) <= INTEGER_TOLERANCE).all():
        binary = values.max() == 1
        return _Content("counts", notes=("The counts are all 0 or 1; were they binarised?",) if binary else ())
    if values.max() > LARGEST_LOG or (sample.shape[0] >= TELLING_CELLS and _constant_sum(sample) is not None):
        return _Content("linear")
    base = _log_base(sample)
    linear = _linear(sample, base)
    target_sum = _constant_sum(linear)
    return _Content("log", log_base=base, target_sum=target_sum, notes=tuple(_log_notes(linear, base, target_sum)))


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
    distances = {base: _distance_to_multiples(_linear(sample, base)) for base in LOG_BASES}
    best = min(LOG_BASES, key=lambda base: distances[base])
    if distances[best] < 0.005:
        return best
    if sample.shape[0] >= TELLING_CELLS:
        for base in LOG_BASES:
            if _constant_sum(_linear(sample, base)) is not None:
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
    sums = _row_sums(linear.astype(np.float64))
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


def _notes(places: list[_Place], contents: list[_Content], chosen: int) -> Iterable[str]:
    """Say why X was passed over, if it was, and what is suspicious in the values."""
    yield from contents[chosen].notes
    (first, *_), (content, *_) = places, contents
    if chosen == 0 or first.source != "X":
        return
    if content.problem:
        yield f"X {content.problem}, so {places[chosen].source} was read."
    elif len(first.var) < SUBSET_SHARE * len(places[chosen].var):
        yield f"X has {len(first.var)} genes of {len(places[chosen].var)}, so {places[chosen].source} was read."


def _linear(rows: sparse.csr_matrix, log_base: float | None) -> sparse.csr_matrix:
    """Return linear values, float64 with the precision of float32, undoing log(1 + linear) if there is a base."""
    linear = rows.astype(np.float64)
    if log_base is not None:
        linear.data = np.expm1(linear.data * math.log(log_base)).astype(np.float32).astype(np.float64)
    return linear


def _row_sums(linear: sparse.csr_matrix) -> npt.NDArray[np.float64]:
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


def _other_layers(adata: Cells) -> str:
    """Return a sentence on the layers that a user may choose from."""
    return f"The layers are {listed(adata.layers)}. " if len(adata.layers) else "There are no layers. "


def listed(names: Iterable[Any]) -> str:
    """Return names as text."""
    return ", ".join(map(str, names)) or "none"

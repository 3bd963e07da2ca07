"""Arrange the expression values of cells by the genes of a reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.content.values import LARGEST_LOG, Kind, row_sums
from spikgpt.cells.expression import Expression
from spikgpt.cells.genes import GeneList, GeneMatch, match_genes
from spikgpt.cells.matrices import StoredRows, stored_rows
from spikgpt.kernels import compiled
from spikgpt.threads import in_order
from spikgpt.types import Bools, Floats, Integers, Rows, Scale

# Number of cells that are read at a time.
CHUNK = 1024


@dataclass(frozen=True)
class AlignedCells:
    """Linear values of n cells for the G genes of a reference.

    The values are the same to the last bit for any order and naming of the query's genes and any storage of its matrix.
    ``values``, shape (n, G), float32, are counts, or counts times a factor per cell if the query has no counts. The
    column indices are sorted. ``totals``, shape (n,), are the sums over all genes of the query. ``genes_present``,
    shape (G,), is True for the genes that the query has. ``kind`` is the unit in which the query stores its values:
    ``counts``, ``linear`` or ``log``; it is ``embedding`` for embedding vectors. ``other_genes`` are indices of the
    reference's further genes, from which missing genes are imputed. The values of these genes are the last columns.
    """

    values: sparse.csr_matrix
    totals: npt.NDArray[np.float64]
    genes_present: Bools
    kind: Kind | Literal["embedding"]
    other_genes: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def empty(self) -> Bools:
        """Return True for the cells with a total of 0, shape (n,)."""
        return np.asarray(self.totals == 0)

    def part(self, cells: slice | npt.NDArray[Any]) -> AlignedCells:
        """Return the cells chosen by a slice, a mask or indices."""
        return replace(self, values=self.values[cells], totals=self.totals[cells])

    def only(self, kept: Bools) -> AlignedCells:
        """Return all n cells, with the values of a cell set to 0 where ``kept``, shape (n,), is False."""
        values = sparse.csr_matrix(self.values.multiply(kept[:, None]).astype(self.values.dtype))
        values.eliminate_zeros()
        return replace(self, values=values, totals=np.where(kept, self.totals, 0.0))

    def select(self, cells: Integers, genes: Integers | None = None) -> AlignedCells:
        """Return the cells and genes with the given ascending indices; ``genes`` None returns every gene."""
        part = self.part(cells)
        if genes is None:
            return part
        return replace(part, values=sparse.csr_matrix(part.values[:, genes]), genes_present=self.genes_present[genes])

    @classmethod
    def from_vectors(cls, vectors: Floats, empty: Bools) -> Self:
        """Store embedding vectors, shape (n, dim), in ``values``.

        ``empty``, shape (n,), is True for cells without a vector.
        """
        totals = np.where(empty, 0.0, 1.0)
        return cls(sparse.csr_matrix(vectors), totals, np.ones(vectors.shape[1], dtype=bool), "embedding")

    @property
    def vectors(self) -> npt.NDArray[np.float64]:
        """Return the embedding vectors, shape (n, dim), that :meth:`from_vectors` stored."""
        return np.asarray(self.values.toarray(), dtype=np.float64)


@dataclass(frozen=True)
class CellsOnDemand:
    """Cells of a query whose values are read from the matrix only when the cells are selected."""

    expression: Expression
    match: GeneMatch

    def select(self, cells: Integers, genes: Integers | None = None) -> AlignedCells:
        """Read the cells and genes with the given ascending indices; ``genes`` None reads every gene."""
        match = self.match if genes is None else self.match.part(genes)
        return joined(list(aligned_chunks(self.expression.part(cells), match)))


def aligned_chunks(
    expression: Expression,
    match: GeneMatch,
    *,
    chunk_size: int | None = None,
    rows: range | None = None,
    threads: int = 1,
) -> Iterator[AlignedCells]:
    """Yield cells in chunks, with values of the reference's genes; genes that the query lacks are 0.

    Parameters
    ----------
    chunk_size
        Number of cells in a chunk; default: 1024.
    rows
        Range of consecutive rows to read; by default all cells.
    threads
        Number of chunks that compiled code aligns at the same time; the calling thread reads the chunks.
    """
    size, rows = chunk_size or CHUNK, range(expression.n_cells) if rows is None else rows
    bounds = ((start, min(start + size, rows.stop)) for start in rows[::size])
    aligner = _CompiledAligner.from_match(expression, match)
    if aligner is None:
        for start, stop in bounds:
            yield _aligned_by_scipy(expression, match, start, stop)
        return
    stored = ((start, stop, stored_rows(expression.matrix, start, stop)) for start, stop in bounds)
    for start, stop, aligned in in_order(aligner.align, stored, threads):
        if aligned is None:
            yield _aligned_by_scipy(expression, match, start, stop)
        else:
            yield AlignedCells(*aligned, match.genes_present, expression.kind)


def _aligned_by_scipy(expression: Expression, match: GeneMatch, start: int, stop: int) -> AlignedCells:
    """Return the cells ``start`` to ``stop`` (excluded) with values of the reference's genes, without compiled code."""
    linear = expression.linear(start, stop)
    values = sparse.csr_matrix((linear @ match.selection).astype(np.float32))
    values.eliminate_zeros()
    values.sort_indices()
    return AlignedCells(values, row_sums(linear), match.genes_present, expression.kind)


@dataclass(frozen=True)
class _CompiledAligner:
    """Aligner of chunks of cells in compiled code.

    The stored values must be linear values or logarithms to one base. Logarithms are turned into linear values first.
    ``lookup``, shape (columns,), is the result of :func:`spikgpt.kernels.aligned.lookup_table`.
    """

    kernel: Any
    expression: Expression
    lookup: npt.NDArray[np.int32]
    n_genes: int

    @classmethod
    def from_match(cls, expression: Expression, match: GeneMatch) -> _CompiledAligner | None:
        """Return the aligner; None if SciPy has to align: for few cells, mixed units, repeated or chosen columns."""
        content, selection = expression.content, match.selection.tocoo()
        plain = content.inverse is None and (content.kind == "log") == (content.log_base is not None)
        each_once = len(np.unique(selection.row)) == len(selection.row) and (selection.data == 1).all()
        kernel = compiled("aligned", expression.n_cells)
        selected = expression.columns is not None or expression.index is not None
        if kernel is None or not plain or not each_once or selected:
            return None
        genes = np.full(selection.shape[0], -1)
        genes[selection.row] = selection.col
        n_genes = selection.shape[1]
        return cls(kernel, expression, kernel.lookup_table(genes, n_genes), n_genes)

    def align(
        self, rows: tuple[int, int, StoredRows]
    ) -> tuple[int, int, tuple[sparse.csr_matrix, npt.NDArray[np.float64]] | None]:
        """Return (start, stop, (values, totals)) of aligned cells, from (start, stop, stored rows) of the same cells.

        The last item is None if a cell has values that the compiled code cannot handle.
        """
        start, stop, (data, indices, indptr) = rows
        with np.errstate(over="ignore"):
            stored = data.astype(np.float32, copy=False)
        content, linear, largest = self.expression.content, stored, float(np.finfo(np.float32).max)
        if content.log_base is not None:
            largest = LARGEST_LOG
            with np.errstate(over="ignore", invalid="ignore"):
                linear = np.expm1(stored.astype(np.float64) * math.log(content.log_base)).astype(np.float32)
        *parts, totals, plain, whole = self.kernel.aligned_values(
            stored, linear, indices.astype(np.int32, copy=False), indptr, self.lookup, self.n_genes, largest
        )
        filled = np.diff(indptr) > 0
        if (
            not plain
            or (content.kind == "counts" and not whole.all())
            or (content.kind == "log" and whole[filled].any())
        ):
            return start, stop, None
        values = sparse.csr_matrix((stop - start, self.n_genes), dtype=np.float32)
        values.data, values.indices, values.indptr = parts
        values.has_canonical_format = True
        return start, stop, (values, totals)


def align(
    expression: Expression, genes: GeneList, *, minimum_share: float = 0.1, gene_key: str | None = None
) -> AlignedCells:
    """Return all cells with values of a reference's genes.

    Raises
    ------
    GenesError
        When the query has less than ``minimum_share`` of the genes.
    """
    match = match_genes(expression.var, genes, minimum_share=minimum_share, gene_key=gene_key)
    return joined(list(aligned_chunks(expression, match)))


def joined(chunks: list[AlignedCells]) -> AlignedCells:
    """Concatenate one or more chunks of cells of the same query."""
    return replace(
        chunks[0],
        values=sparse.csr_matrix(sparse.vstack([chunk.values for chunk in chunks], format="csr")),
        totals=np.concatenate([chunk.totals for chunk in chunks]),
    )


def log_normalise(
    values: sparse.csr_matrix, totals: npt.NDArray[np.float64], target_sum: float = 1e4
) -> sparse.csr_matrix:
    """Return ln(1 + value * target_sum / total) in float32, for linear values of shape (n, G) and totals of shape (n,).

    The values of a cell with a total of 0 stay 0.
    """
    factors = np.divide(target_sum, totals, out=np.zeros(len(totals)), where=totals > 0)
    normalised = values.astype(np.float64)
    normalised.data = np.log1p(normalised.data * np.repeat(factors, np.diff(normalised.indptr)))
    return normalised.astype(np.float32)


def mean_and_std(logs: sparse.csr_matrix) -> Scale:
    """Return the mean and the standard deviation of each gene, both of shape (G,), from log values of shape (n, G)."""
    values = logs.astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    values.data **= 2
    squares = np.asarray(values.mean(axis=0)).ravel()
    return mean, np.sqrt(np.maximum(squares - mean**2, 0.0))

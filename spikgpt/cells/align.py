"""Align cells to the genes of a reference."""

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

# Cells read at a time.
CHUNK = 1024


@dataclass(frozen=True)
class AlignedCells:
    """Linear values of n cells for the G genes of a reference.

    The result is the same, to the bit, for any order and naming of the genes and any storage of the matrix.
    ``values``, shape (n, G), float32, indices sorted, are counts, or linear values where the query holds no counts;
    ``totals``, shape (n,), are the sums over all the query's genes. ``genes_present``, shape (G,), marks
    the genes that the query has. ``kind`` is ``counts``, ``linear``, ``log`` or ``embedding``. ``other_genes`` are the
    indices of further genes among those that a reference knows beside its own; their columns are the last of the G.
    """

    values: sparse.csr_matrix
    totals: npt.NDArray[np.float64]
    genes_present: Bools
    kind: Kind | Literal["embedding"]
    other_genes: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def empty(self) -> Bools:
        """Mark the cells with a total of 0, shape (n,)."""
        return np.asarray(self.totals == 0)

    def part(self, cells: slice | npt.NDArray[Any]) -> AlignedCells:
        """Select cells by a slice, a mask or their indices."""
        return replace(self, values=self.values[cells], totals=self.totals[cells])

    def only(self, kept: Bools) -> AlignedCells:
        """Return the same cells with the counts of all but the ``kept`` cells removed; ``kept`` has shape (n,)."""
        values = sparse.csr_matrix(self.values.multiply(kept[:, None]).astype(self.values.dtype))
        values.eliminate_zeros()
        return replace(self, values=values, totals=np.where(kept, self.totals, 0.0))

    def select(self, cells: Integers, genes: Integers | None = None) -> AlignedCells:
        """Select cells and genes by their indices, ascending; by default every gene."""
        part = self.part(cells)
        if genes is None:
            return part
        return replace(part, values=sparse.csr_matrix(part.values[:, genes]), genes_present=self.genes_present[genes])

    @classmethod
    def from_vectors(cls, vectors: Floats, empty: Bools) -> Self:
        """Hold vectors, shape (n, dim), in place of genes; ``empty``, shape (n,), marks cells without a vector."""
        totals = np.where(empty, 0.0, 1.0)
        return cls(sparse.csr_matrix(vectors), totals, np.ones(vectors.shape[1], dtype=bool), "embedding")

    @property
    def vectors(self) -> npt.NDArray[np.float64]:
        """Return the vectors, shape (n, dim), of cells from :meth:`from_vectors`."""
        return np.asarray(self.values.toarray(), dtype=np.float64)


@dataclass(frozen=True)
class CellsOnDemand:
    """Cells of an expression that are read when they are selected."""

    expression: Expression
    match: GeneMatch

    def select(self, cells: Integers, genes: Integers | None = None) -> AlignedCells:
        """Read cells and genes by their indices, ascending; by default every gene."""
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
    """Yield cells with the genes of a reference; genes that the query lacks are 0.

    Parameters
    ----------
    chunk_size
        Cells of a chunk; default: 1024.
    rows
        Range of consecutive rows; by default all cells.
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
    """Return the cells from ``start`` to before ``stop`` with the genes of a reference."""
    linear = expression.linear(start, stop)
    values = sparse.csr_matrix((linear @ match.selection).astype(np.float32))
    values.eliminate_zeros()
    values.sort_indices()
    return AlignedCells(values, row_sums(linear), match.genes_present, expression.kind)


@dataclass(frozen=True)
class _CompiledAligner:
    """Aligns chunks of cells in compiled code. Stored values are plain, or logarithms, which are inverted.

    ``lookup``, shape (columns,), is that of :func:`spikgpt.kernels.aligned.lookup_table`.
    """

    kernel: Any
    expression: Expression
    lookup: npt.NDArray[np.int32]
    n_genes: int

    @classmethod
    def from_match(cls, expression: Expression, match: GeneMatch) -> _CompiledAligner | None:
        """Return the aligner, or None where SciPy is to be used: for few cells, mixed values or repeated columns."""
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
        """Return the bounds of some rows, and their values and totals, from the bounds and the rows as stored.

        Values and totals are None if a cell has values that the compiled code does not handle.
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
    """Return all cells with the genes of a reference; less than ``minimum_share`` of the genes is refused."""
    match = match_genes(expression.var, genes, minimum_share=minimum_share, gene_key=gene_key)
    return joined(list(aligned_chunks(expression, match)))


def joined(chunks: list[AlignedCells]) -> AlignedCells:
    """Concatenate at least one chunk of one query."""
    return replace(
        chunks[0],
        values=sparse.csr_matrix(sparse.vstack([chunk.values for chunk in chunks], format="csr")),
        totals=np.concatenate([chunk.totals for chunk in chunks]),
    )


def log_normalise(
    values: sparse.csr_matrix, totals: npt.NDArray[np.float64], target_sum: float = 1e4
) -> sparse.csr_matrix:
    """Return ln(1 + value * target_sum / total) of linear values, (n, G), and the cells' totals, (n,), in float32.

    A cell with a total of 0 stays 0.
    """
    factors = np.divide(target_sum, totals, out=np.zeros(len(totals)), where=totals > 0)
    normalised = values.astype(np.float64)
    normalised.data = np.log1p(normalised.data * np.repeat(factors, np.diff(normalised.indptr)))
    return normalised.astype(np.float32)


def mean_and_std(logs: sparse.csr_matrix) -> Scale:
    """Return the mean and the standard deviation of each gene, (n, G) to two of (G,)."""
    values = logs.astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    values.data **= 2
    squares = np.asarray(values.mean(axis=0)).ravel()
    return mean, np.sqrt(np.maximum(squares - mean**2, 0.0))

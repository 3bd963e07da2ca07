"""Marker genes of a cluster: a Wilcoxon rank-sum test of each gene compares the cluster with other cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import CHUNK, log_normalise
from spikgpt.cells.expression import Expression
from spikgpt.cells.genes import symbols_of
from spikgpt.types import Rows

# Largest number of compared cells in the cluster, and outside the cluster, to limit memory and time.
MOST_COMPARED = 5000
# Largest number of reported marker genes, smallest log2 fold change, and largest adjusted p-value of a marker gene.
MOST_MARKERS = 10
MINIMUM_LOG2_FOLD_CHANGE = 1.0
LARGEST_ADJUSTED_P = 0.05
# Added to both means of a fold change, as scanpy does.
PSEUDOCOUNT = 1e-9
# Number of low bits of a sort key that hold the expression value. The higher bits hold the index of the gene.
VALUE_BITS = np.uint64(32)


@dataclass(frozen=True)
class MarkerGene:
    """A gene with higher expression in a cluster than in other cells.

    Attributes
    ----------
    share_inside, share_outside
        Share of the cells that express the gene, in the cluster and among the other cells.
    """

    gene: str
    log2_fold_change: float
    adjusted_p: float
    share_inside: float
    share_outside: float


class MarkerFinder:
    """Search for marker genes in a query.

    If consecutive comparisons use the same cells as ``outside``, these cells are read once.
    """

    def __init__(self, expression: Expression, gene_key: str | None = None) -> None:
        self._expression = expression
        self._names = list(map(str, expression.var[gene_key])) if gene_key else symbols_of(expression.var)
        self._outside: tuple[Rows, _SortedCells] | None = None

    def markers(self, inside: Rows, outside: Rows) -> tuple[MarkerGene, ...]:
        """Return the genes with higher expression ``inside`` than ``outside``, sorted by score, then by fold change.

        The score is the z-score of a Wilcoxon rank-sum test. The test uses at most 5000 evenly spaced cells of
        ``inside``, and as many of ``outside``.

        Parameters
        ----------
        inside, outside
            Row numbers of the cells, in ascending order. No cell may be in both.

        Raises
        ------
        DataError
            When a value cannot be read.
        """
        # Imported here, because the import is slow, and only candidates for new types need the functions.
        from scipy.stats import false_discovery_control, norm

        inside, outside = _evenly_spaced(inside), _evenly_spaced(outside)
        if self._outside is None or not np.array_equal(self._outside[0], outside):
            self._outside = None  # frees the memory of the previous cells first
            self._outside = outside, _SortedCells.from_logs(_log_values(self._expression, outside))
        outside_cells = self._outside[1]
        cells = _SortedCells.from_logs(_log_values(self._expression, inside))
        scores = cells.rank_sum_scores(outside_cells)
        adjusted_p = false_discovery_control(2 * norm.sf(np.abs(scores)))
        fold_changes = np.log2((np.expm1(cells.means) + PSEUDOCOUNT) / (np.expm1(outside_cells.means) + PSEUDOCOUNT))
        chosen = (adjusted_p < LARGEST_ADJUSTED_P) & (fold_changes > MINIMUM_LOG2_FOLD_CHANGE)
        best = np.lexsort((-fold_changes, -scores))
        return tuple(
            MarkerGene(
                self._names[gene],
                float(fold_changes[gene]),
                float(adjusted_p[gene]),
                float(cells.expressing[gene] / cells.n_cells),
                float(outside_cells.expressing[gene] / outside_cells.n_cells),
            )
            for gene in best[chosen[best]][:MOST_MARKERS]
        )


@dataclass(frozen=True)
class _SortedCells:
    """The log expression of n cells, sorted within each of G genes.

    ``keys`` has one number for each value above 0, in ascending order: the high bits are the gene, and the low bits are
    those of the value. The bits of positive float32 values, read as integers, sort as the values do. ``expressing`` is
    the number of cells with a value above 0, and ``means`` the mean of each gene, both of shape (G,).
    """

    n_cells: int
    keys: npt.NDArray[np.uint64]
    expressing: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]

    @classmethod
    def from_logs(cls, logs: sparse.csr_matrix) -> Self:
        """Sort log expression without negative values, shape (n, G)."""
        logs = logs.astype(np.float32)
        logs.sum_duplicates()
        logs.eliminate_zeros()
        keys = (logs.indices.astype(np.uint64) << VALUE_BITS) | logs.data.view(np.uint32)
        means = np.asarray(logs.sum(axis=0, dtype=np.float64)).ravel() / logs.shape[0]
        return cls(logs.shape[0], np.sort(keys), np.asarray(logs.getnnz(axis=0), dtype=np.int64), means)

    def rank_sum_scores(self, other_cells: Self) -> npt.NDArray[np.float64]:
        """Return the z-score of the rank sum of ``self`` among the cells of both groups, for each gene, shape (G,).

        The rank sum minus its minimum is the number of cell pairs in which the cell of ``self`` is higher. A tie counts
        half.
        """
        genes = (self.keys >> VALUE_BITS).astype(np.int64)
        first, last = (np.searchsorted(other_cells.keys, self.keys, side=side) for side in ("left", "right"))
        zeros = other_cells.n_cells - other_cells.expressing  # (G,)
        starts = np.cumsum(other_cells.expressing) - other_cells.expressing  # (G,)
        lower = zeros[genes] + (first + last) / 2 - starts[genes]
        pairs = np.bincount(genes, weights=lower, minlength=len(zeros)) + (self.n_cells - self.expressing) * zeros / 2
        product = self.n_cells * other_cells.n_cells
        return np.asarray((pairs - product / 2) / np.sqrt(product * (self.n_cells + other_cells.n_cells + 1) / 12))


def _evenly_spaced(rows: Rows) -> Rows:
    if len(rows) <= MOST_COMPARED:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_COMPARED).astype(np.int64)]


def _log_values(expression: Expression, rows: Rows) -> sparse.csr_matrix:
    """Return the natural log expression of cells, from their ascending row numbers.

    Stored logarithms are not normalised again.
    """
    chosen = expression.part(rows)
    read = chosen.rows if expression.kind == "log" else chosen.linear
    parts = [read(start, min(start + CHUNK, len(rows))) for start in range(0, len(rows), CHUNK)]
    values = sparse.csr_matrix(sparse.vstack(parts, format="csr"))
    if expression.kind == "log" and expression.log_base is not None:
        return values * math.log(expression.log_base)
    return log_normalise(values, np.asarray(values.sum(axis=1, dtype=np.float64)).ravel())

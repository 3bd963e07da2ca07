"""Cells as vectors, and how they came to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.sampling import content_keys, sample_of


@dataclass(frozen=True)
class EmbeddingReport:
    """How the cells were read and embedded, for the user and for provenance.

    ``genes_matched`` counts the genes that reference and query share, of ``genes_total`` genes of the reference; or of
    the query, where ``of_query`` says so, as a vocabulary of all human genes is never found whole. Both counts are 0
    for an embedding that the user brings. ``notes`` are whole sentences on anything suspicious.
    """

    source: str
    values: str
    scaling: str
    genes_matched: int
    genes_total: int
    notes: tuple[str, ...] = ()
    of_query: bool = False

    @property
    def genes(self) -> str:
        """Say how many genes matched, in a sentence; nothing for an embedding that the user brings."""
        if not self.genes_total:
            return ""
        if self.of_query:
            return f"{self.genes_matched} of the query's {self.genes_total} genes are in the vocabulary."
        return f"{self.genes_matched} of the reference's {self.genes_total} genes are in the query."


@dataclass(frozen=True)
class Embedding:
    """Cell embeddings.

    ``vectors`` has shape (n, dim), float64, and is what the classifier reads; ``empty``, shape
    (n,), marks cells without any counts, whose vectors mean nothing. ``points``, one row for each cell that is not
    empty, places the cells among themselves, whatever the reference; ``shown`` are the rows of it among which
    neighbours are sought. Of an embedding that was made from expression, ``logs`` are the cells' log expression of the
    genes that were found, one row for each that is not empty, and ``profiles`` the labels' means of it.
    """

    vectors: npt.NDArray[np.float64]
    empty: npt.NDArray[np.bool_]
    report: EmbeddingReport
    points: npt.NDArray[np.float64]
    shown: npt.NDArray[np.int64]
    logs: sparse.csr_matrix | None = None
    profiles: npt.NDArray[np.float32] | None = None

    def part(self, cells: npt.NDArray[np.int64]) -> Embedding:
        """Return the embedding of some of the cells, by their indices."""
        rows = np.cumsum(~self.empty) - 1
        filled = cells[~self.empty[cells]]
        points = self.points[rows[filled]]
        return Embedding(self.vectors[cells], self.empty[cells], self.report, points, sample_of(content_keys(points)))

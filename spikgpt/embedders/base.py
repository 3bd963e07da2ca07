"""What every embedder offers: cells in, one vector a cell out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.genes import GeneList

Floats = npt.NDArray[np.floating[Any]]
# From vectors, shape (n, dim), to label probabilities, shape (n, labels).
Classify = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


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
    empty, places the cells among themselves, whatever the reference.
    """

    vectors: npt.NDArray[np.float64]
    empty: npt.NDArray[np.bool_]
    report: EmbeddingReport
    points: npt.NDArray[np.float64]

    def part(self, cells: npt.NDArray[np.int64]) -> Embedding:
        """Return the embedding of some of the cells, by their indices."""
        rows = np.cumsum(~self.empty) - 1
        filled = cells[~self.empty[cells]]
        return Embedding(self.vectors[cells], self.empty[cells], self.report, self.points[rows[filled]])


class Embedder(Protocol):
    """Turns cells into vectors, the same way for the reference and for a query."""

    @property
    def kind(self) -> str:
        """Name on the command line: ``pca``, ``scgpt``, or ``obsm:KEY``."""

    @property
    def fitted(self) -> bool:
        """Whether it was fitted to the cells of the reference; if not, it gives any cell the same vector."""

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""

    @property
    def genes(self) -> GeneList | None:
        """Genes that the embedder reads, in order; None when it reads no expression."""

    def embed(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        classify: Classify | None = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> Embedding:
        """Embed every cell of ``adata``.

        Parameters
        ----------
        layer
            Layer to read; by default the best expression values that the AnnData holds.
        scaling
            How query genes are brought to the reference's scale, for embedders that scale.
        classify
            Label probabilities of vectors, for a scaling that depends on them.
        on_cells
            Called with the number of cells done since the last call.

        Raises
        ------
        DataError
            When the cells cannot be embedded.
        """

    def augment(self, adata: AnnData, *, layer: str | None = None, seed: int = 0) -> list[npt.NDArray[np.float64]]:
        """Return the vectors of the cells once more, as another sample might show them, for training.

        One array of shape (n, dim), or none where the embedder cannot tell.
        """

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedder."""

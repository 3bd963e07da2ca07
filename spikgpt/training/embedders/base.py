"""What every embedder offers: cells in, one vector a cell out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.result import Embedding
from spikgpt.labels.neighbours import Floats

# From vectors, shape (n, dim), to label probabilities, shape (n, labels).
Classify = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


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

"""An embedding that the user brings in ``obsm``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.expression import Cells
from spikgpt.embedding.result import Embedding, EmbeddingReport
from spikgpt.errors import ConfigError, DamagedReference, DataError
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Floats

PREFIX = "obsm:"
SCALINGS = ("auto", "reference")


@dataclass(frozen=True)
class PrecomputedEmbedder:
    """Reads ``obsm[key]``, which must come from the same embedding model for reference and query."""

    key: str
    dim: int
    genes: None = None
    fitted: bool = False

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return PREFIX + self.key

    @classmethod
    def fit(cls, adata: Cells, key: str) -> PrecomputedEmbedder:
        """Take the length of ``obsm[key]`` of the reference.

        Raises
        ------
        DataError
            When there is no such embedding, or it holds values that are not finite.
        """
        return cls(key, _vectors(adata, key).shape[1])

    def embed(
        self,
        adata: Cells,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        classify: object = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> Embedding:
        """Return ``obsm[key]`` as it is.

        Raises
        ------
        DataError
            When there is no such embedding, it has another length, or it holds values that are not finite.
        ConfigError
            When a layer or a scaling is asked for, which an embedding has no use for.
        """
        if layer is not None or scaling not in SCALINGS:
            msg = (
                f"This reference classifies obsm[{self.key!r}] as it is, so layer={layer!r} and scaling={scaling!r} "
                "have no meaning; leave them out."
            )
            raise ConfigError(msg)
        vectors = _vectors(adata, self.key)
        if vectors.shape[1] != self.dim:
            msg = (
                f"obsm[{self.key!r}] has {vectors.shape[1]} columns; the reference was trained on {self.dim}. "
                "Embed the query with the model that embedded the reference."
            )
            raise DataError(msg)
        if on_cells:
            on_cells(len(vectors))
        report = EmbeddingReport(f"obsm[{self.key!r}]", "embedding", "none", genes_matched=0, genes_total=0)
        return Embedding(vectors, np.zeros(len(vectors), dtype=bool), report, vectors, sample_of(content_keys(vectors)))

    def augment(self, adata: Cells, *, layer: str | None = None, seed: int = 0) -> list[npt.NDArray[np.float64]]:
        """Return nothing: another sample's embedding is not known."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""
        return {"kind": "obsm", "key": self.key, "dim": self.dim}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> PrecomputedEmbedder:
        """Rebuild a stored embedder.

        Raises
        ------
        DamagedReference
            When a setting is missing or of another type.
        """
        key, dim = settings.get("key"), settings.get("dim")
        if not isinstance(key, str) or not isinstance(dim, int):
            msg = f"The obsm embedder of config.json is {settings}; expected a key and a dim."
            raise DamagedReference(msg)
        return cls(key, dim)

    def tensors(self) -> dict[str, Floats]:
        """Return no tensors: everything is in the settings."""
        return {}


def _vectors(adata: Cells, key: str) -> npt.NDArray[np.float64]:
    """Return ``obsm[key]``, shape (n, dim), float64, checked."""
    if key not in adata.obsm:
        available = ", ".join(sorted(adata.obsm)) or "none"
        msg = f"There is no obsm[{key!r}]; this AnnData has: {available}. Add the embedding, or name one of these."
        raise DataError(msg)
    stored = adata.obsm[key]
    dense = stored.toarray() if sparse.issparse(stored) else np.asarray(stored)
    vectors: npt.NDArray[np.float64] = np.atleast_2d(dense).astype(np.float64)
    if not np.isfinite(vectors).all():
        cells = int((~np.isfinite(vectors).all(axis=1)).sum())
        msg = f"obsm[{key!r}] holds NaN or infinite values in {cells} cells; remove those cells or embed them again."
        raise DataError(msg)
    return vectors

"""Embeddings stored in references."""

from __future__ import annotations

from typing import Any

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.pca import PCAProjection
from spikgpt.types import Floats


def stored_embedding(
    settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList, more: GeneList | None = None
) -> Embedding:
    """Return the embedding of a reference without scGPT, from settings that were checked when reading the reference."""
    if settings["kind"] == PCA:
        return PCAProjection.from_tensors(settings, tensors, genes, more)
    return ObsmEmbedding.from_settings(settings)

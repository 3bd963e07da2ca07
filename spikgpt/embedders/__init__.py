"""Embedders: one file each, behind one protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.embedders.base import Classify, Embedder, Embedding, EmbeddingReport, Floats
from spikgpt.embedders.pca import KIND as PCA
from spikgpt.embedders.pca import PCAEmbedder
from spikgpt.embedders.precomputed import PREFIX, PrecomputedEmbedder
from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.genes import GeneList

__all__ = ["Classify", "Embedder", "Embedding", "EmbeddingReport", "fit_embedder", "load_embedder"]


def fit_embedder(
    kind: str, adata: AnnData, labels: npt.NDArray[np.str_], *, layer: str | None = None, seed: int = 0
) -> Embedder:
    """Fit an embedder to labelled cells.

    Parameters
    ----------
    kind
        ``pca`` or ``obsm:KEY``.

    Raises
    ------
    ConfigError
        When there is no such embedder.
    DataError
        When the cells cannot be embedded.
    """
    if kind == PCA:
        return PCAEmbedder.fit(adata, labels, layer=layer, seed=seed)
    if kind.startswith(PREFIX) and kind != PREFIX:
        return PrecomputedEmbedder.fit(adata, kind.removeprefix(PREFIX))
    msg = f"There is no embedder {kind!r}; choose pca, or obsm:KEY for an embedding in the AnnData."
    raise ConfigError(msg)


def load_embedder(settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList) -> Embedder:
    """Rebuild a stored embedder.

    Raises
    ------
    DamagedReference
        When the settings or the tensors are not those of a known embedder.
    """
    if settings.get("kind") == PCA:
        return PCAEmbedder.from_tensors(settings, tensors, genes)
    if settings.get("kind") == "obsm" and not tensors:
        return PrecomputedEmbedder.from_settings(settings)
    msg = f"config.json names the embedder {settings.get('kind')!r}; this version of spikgpt has pca and obsm."
    raise DamagedReference(msg)

"""Embedders: one file each, behind one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anndata import AnnData

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.obsm import PREFIX, PrecomputedEmbedder
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.result import Embedding
from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.reference.hub import Hub
from spikgpt.scgpt.embedding import Running, cache_folder
from spikgpt.scgpt.source import KIND as SCGPT
from spikgpt.scgpt.source import ScGPTSource, open_scgpt
from spikgpt.training.embedders.base import Classify, Embedder
from spikgpt.training.embedders.pca import PCAEmbedder
from spikgpt.training.embedders.scgpt import ScGPTEmbedder
from spikgpt.types import Floats, Strings

__all__ = [
    "Classify",
    "Embedder",
    "Embedding",
    "PCAEmbedder",
    "ScGPTEmbedder",
    "fit_embedder",
    "load_embedder",
    "open_scgpt",
]


def fit_embedder(
    kind: str | ScGPTSource | Embedder,
    adata: AnnData,
    labels: Strings,
    *,
    layer: str | None = None,
    seed: int = 0,
) -> Embedder:
    """Fit an embedder to labelled cells.

    Parameters
    ----------
    kind
        ``pca`` or ``obsm:KEY``; an embedder that needs no fitting is taken as it is. Of an scGPT checkpoint, finished
        cells are kept in the user's cache folder, or in ``SPIKGPT_CACHE``.

    Raises
    ------
    ConfigError
        When there is no such embedder.
    DataError
        When the cells cannot be embedded.
    """
    if isinstance(kind, ScGPTSource):
        return ScGPTEmbedder(kind, Running(cache=cache_folder()))
    if not isinstance(kind, str):
        return kind
    if kind == PCA:
        return PCAEmbedder.fit(adata, labels, layer=layer, seed=seed)
    if kind.startswith(PREFIX) and kind != PREFIX:
        return PrecomputedEmbedder.fit(adata, kind.removeprefix(PREFIX))
    msg = f"There is no embedder {kind!r}; choose pca, scgpt, or obsm:KEY for an embedding in the AnnData."
    raise ConfigError(msg)


def load_embedder(
    settings: dict[str, Any],
    tensors: dict[str, Floats],
    genes: GeneList,
    *,
    scgpt: str | Path | None = None,
    hub: Hub | None = None,
) -> Embedder:
    """Rebuild a stored embedder.

    Parameters
    ----------
    scgpt
        Folder of the scGPT checkpoint, for a reference that was trained with one from a folder.
    hub
        How to get a checkpoint that the reference names on the Hub.

    Raises
    ------
    DamagedReference
        When the settings or the tensors are not those of a known embedder.
    """
    if settings.get("kind") == PCA:
        return PCAEmbedder.from_tensors(settings, tensors, genes)
    if settings.get("kind") == "obsm" and not tensors:
        return PrecomputedEmbedder.from_settings(settings)
    if settings.get("kind") == SCGPT:
        source = ScGPTSource.from_settings(settings, tensors, genes, scgpt=scgpt, hub=hub)
        return ScGPTEmbedder(source, Running(cache=cache_folder()))
    msg = f"config.json names the embedder {settings.get('kind')!r}; this version of spikgpt has pca, scgpt and obsm."
    raise DamagedReference(msg)

"""Embedders: one file each, behind one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.obsm import PREFIX, PrecomputedEmbedder
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.result import Embedding
from spikgpt.errors import CheckpointError, ConfigError, DamagedReference
from spikgpt.labels.neighbours import Floats
from spikgpt.reference.hub import Hub, parse
from spikgpt.scgpt.checkpoint import ARGS, UPSTREAM_WEIGHTS, VOCABULARY, WEIGHTS, load_checkpoint
from spikgpt.scgpt.embedding import cache_folder
from spikgpt.training.embedders.base import Classify, Embedder
from spikgpt.training.embedders.pca import PCAEmbedder
from spikgpt.training.embedders.scgpt import KIND as SCGPT
from spikgpt.training.embedders.scgpt import ScGPTEmbedder

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

CHECKPOINT_FILES = [ARGS, VOCABULARY, UPSTREAM_WEIGHTS, WEIGHTS]


def fit_embedder(
    kind: str | Embedder, adata: AnnData, labels: npt.NDArray[np.str_], *, layer: str | None = None, seed: int = 0
) -> Embedder:
    """Fit an embedder to labelled cells.

    Parameters
    ----------
    kind
        ``pca`` or ``obsm:KEY``; an embedder that needs no fitting is taken as it is.

    Raises
    ------
    ConfigError
        When there is no such embedder.
    DataError
        When the cells cannot be embedded.
    """
    if not isinstance(kind, str):
        return kind
    if kind == PCA:
        return PCAEmbedder.fit(adata, labels, layer=layer, seed=seed)
    if kind.startswith(PREFIX) and kind != PREFIX:
        return PrecomputedEmbedder.fit(adata, kind.removeprefix(PREFIX))
    msg = f"There is no embedder {kind!r}; choose pca, scgpt, or obsm:KEY for an embedding in the AnnData."
    raise ConfigError(msg)


def open_scgpt(name: str | Path, *, hub: Hub | None = None, **options: Any) -> ScGPTEmbedder:
    """Return the embedder of an scGPT checkpoint.

    Parameters
    ----------
    name
        A folder, or ``org/repo[@revision]`` on the Hugging Face Hub.
    hub
        How to reach the Hub; by default as its environment variables say.
    options
        Fields of :class:`ScGPTEmbedder`, such as ``max_length`` and ``precision``. By default finished cells are kept
        in the user's cache folder, or in ``SPIKGPT_CACHE``; ``cache=None`` keeps nothing.

    Raises
    ------
    CheckpointError
        When there is no such folder, or no checkpoint in it.
    ReferenceNotFound
        When the Hub has no such repository.
    HubError
        When the Hub refuses or cannot be reached.
    """
    options.setdefault("cache", cache_folder())
    path = Path(name)
    if not path.is_dir() and (asked := parse(str(name))):
        repo, revision = asked
        folder = (hub or Hub()).snapshot(repo, revision, CHECKPOINT_FILES, required=(ARGS, VOCABULARY))
        return ScGPTEmbedder(load_checkpoint(folder), repo, folder.name, **options)
    return ScGPTEmbedder(load_checkpoint(path), path.resolve().name, **options)


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

        def find(source: str, revision: str | None) -> Path:
            if scgpt is not None:
                return Path(scgpt)
            if revision is None:
                msg = f"This reference needs the scGPT checkpoint {source!r}; give its folder with scgpt= or --scgpt."
                raise CheckpointError(msg)
            return (hub or Hub()).snapshot(source, revision, CHECKPOINT_FILES, required=(ARGS, VOCABULARY))

        return ScGPTEmbedder.from_settings(settings, tensors, genes, find).running(cache=cache_folder())
    msg = f"config.json names the embedder {settings.get('kind')!r}; this version of spikgpt has pca, scgpt and obsm."
    raise DamagedReference(msg)

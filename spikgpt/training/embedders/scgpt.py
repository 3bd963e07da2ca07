"""scGPT's cell embedding: the first half of the method in the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from anndata import AnnData

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList
from spikgpt.embedding.result import Embedding, EmbeddingReport
from spikgpt.embedding.vocabulary import Encoder, check_scaling
from spikgpt.errors import CheckpointError, DamagedReference
from spikgpt.sampling import content_keys, sample_of
from spikgpt.scgpt.checkpoint import ENCODER, Checkpoint, load_checkpoint
from spikgpt.scgpt.draws import UpstreamDraws
from spikgpt.scgpt.embedding import embed_cells
from spikgpt.scgpt.encoder import ScGPTConfig
from spikgpt.training.embedders.base import Classify
from spikgpt.types import Floats

KIND = "scgpt"
# Tokens of a cell at most, as upstream embeds.
MAX_LENGTH = 1200


@dataclass(frozen=True)
class ScGPTEmbedder:
    """An scGPT checkpoint as an embedder.

    ``source`` and ``revision`` say where the checkpoint came from; with ``bundled``, a reference carries it along. The
    other fields say how to run it, and are not stored.
    """

    checkpoint: Checkpoint
    source: str
    revision: str | None = None
    max_length: int = MAX_LENGTH
    bundled: bool = False
    batch_size: int | None = None
    precision: str = "float32"
    device: str | None = None
    cache: Path | None = None
    draws: UpstreamDraws | None = None

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return self.checkpoint.config.dim

    @property
    def fitted(self) -> bool:
        """Whether the vectors depend on the cells that the reference was trained on."""
        return False

    @cached_property
    def vocabulary(self) -> GeneList:
        """Genes of the checkpoint, in the order of their indices."""
        return self.checkpoint.genes()

    @property
    def genes(self) -> GeneList | None:
        """Genes that a reference has to keep: those of a bundled checkpoint."""
        return self.vocabulary if self.bundled else None

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

        Genes are found by symbol, Ensembl id or an older symbol. Their values are ranked within each cell, so counts
        and log values give the same.

        Raises
        ------
        DataError
            When the cells cannot be read, or too few of their genes are in the vocabulary.
        ConfigError
            When a scaling is asked for, which ranks have no use for.
        """
        check_scaling(scaling)
        expression = find_expression(adata, layer=layer)
        cells = align(expression, self.vocabulary, minimum_share=0)
        ids = np.array([self.checkpoint.vocabulary[token] for token in self.checkpoint.gene_tokens])
        values = cells.values
        if self.draws is not None:
            # Upstream draws for one gene after the other, in the query's order.
            columns = np.argsort(np.where(cells.found, cells.match.columns, len(expression.var)), kind="stable")
            values, ids = values[:, columns].sorted_indices(), ids[columns]
        vectors = embed_cells(
            self.checkpoint,
            values,
            ids,
            max_length=self.max_length,
            batch_size=self.batch_size,
            precision=self.precision,
            device=self.device,
            draws=self.draws,
            cache=self.cache,
            on_cells=on_cells,
        ).astype(np.float64)
        empty = np.diff(cells.values.indptr) == 0
        report = EmbeddingReport(
            source=expression.source,
            values=cells.kind,
            scaling="none",
            genes_matched=int(cells.found.sum()),
            genes_total=len(expression.var),
            notes=cells.notes,
            of_query=True,
        )
        points = vectors[~empty]
        return Embedding(vectors, empty, report, points, sample_of(content_keys(points)))

    def encoder(self) -> Encoder:
        """Return the checkpoint's network as graphs are made of it."""
        config = self.checkpoint.config
        weights = {name: weight.float().numpy() for name, weight in self.checkpoint.weights.items()}
        lowest = min(config.pad_value, config.mask_value)
        return Encoder(config.heads, config.layers, lowest, self.checkpoint.described(self.max_length), weights)

    def augment(self, adata: AnnData, *, layer: str | None = None, seed: int = 0) -> list[npt.NDArray[np.float64]]:
        """Return nothing: embedding cells twice would double the longest part of a training."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder: which checkpoint, or its sizes where it is bundled."""
        settings: dict[str, Any] = {
            "kind": KIND,
            "source": self.source,
            "revision": self.revision,
            "sha256": self.checkpoint.sha256,
            "max_length": self.max_length,
            "bundled": self.bundled,
        }
        if self.bundled:
            vocabulary = self.checkpoint.vocabulary
            genes = set(self.checkpoint.gene_tokens)
            settings["args"] = self.checkpoint.config.to_args()
            settings["special_tokens"] = {token: vocabulary[token] for token in vocabulary if token not in genes}
        return settings

    def tensors(self) -> dict[str, Floats]:
        """Return the weights of a bundled checkpoint, else nothing."""
        if not self.bundled:
            return {}
        return {n: w.float().numpy() for n, w in self.checkpoint.weights.items() if n.startswith(ENCODER)}

    @classmethod
    def from_settings(
        cls,
        settings: dict[str, Any],
        tensors: dict[str, Floats],
        genes: GeneList,
        find: Callable[[str, str | None], Path],
    ) -> ScGPTEmbedder:
        """Rebuild a stored embedder.

        Parameters
        ----------
        find
            From the source and the revision to the folder of the checkpoint, for one that is not bundled.

        Raises
        ------
        DamagedReference
            When a setting is missing or of another type, or the bundled checkpoint does not fit together.
        CheckpointError
            When the checkpoint cannot be found, or is another than the reference was trained with.
        """
        types = {"source": str, "revision": str | None, "sha256": str, "max_length": int, "bundled": bool}
        if not all(isinstance(settings.get(field, 0.0), kind) for field, kind in types.items()):
            msg = f"The scgpt embedder of config.json is {settings}; expected {', '.join(types)}."
            raise DamagedReference(msg)
        if settings["bundled"]:
            checkpoint = _bundled(settings, tensors, genes)
        else:
            checkpoint = load_checkpoint(find(settings["source"], settings["revision"]))
        if checkpoint.sha256 != settings["sha256"]:
            msg = (
                f"This reference was trained with the scGPT checkpoint {settings['source']} (sha256 "
                f"{settings['sha256'][:12]}...), and found another one (sha256 {checkpoint.sha256[:12]}...). Get the "
                "checkpoint that it names, or give its folder with scgpt= or --scgpt."
            )
            raise CheckpointError(msg)
        return cls(checkpoint, settings["source"], settings["revision"], settings["max_length"], settings["bundled"])

    def running(self, **options: Any) -> ScGPTEmbedder:
        """Return the embedder with other options of running: batch size, precision, device, cache."""
        return replace(self, **options)


def _bundled(settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList) -> Checkpoint:
    """Return the checkpoint that a reference carries."""
    special = settings.get("special_tokens")
    if not isinstance(special, dict) or not all(isinstance(index, int) for index in special.values()):
        msg = f"The bundled scGPT has the special tokens {special!r}; expected names and indices."
        raise DamagedReference(msg)
    left = iter(genes.symbols)
    names = {index: token for token, index in special.items()}
    size = len(genes) + len(special)
    vocabulary = {names[index] if index in names else next(left, ""): index for index in range(size)}
    try:
        config = ScGPTConfig.from_args(settings.get("args"))
    except CheckpointError as error:
        raise DamagedReference(str(error)) from error
    weights = {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}
    checkpoint = Checkpoint(config, vocabulary, weights)
    try:
        checkpoint.check()
    except CheckpointError as error:
        msg = f"The scGPT checkpoint inside the reference is inconsistent: {error}"
        raise DamagedReference(msg) from error
    return checkpoint

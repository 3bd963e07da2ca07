"""scGPT's cell embedding: the first half of the method in the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.cells.expression import align, find_expression
from spikgpt.cells.genes import GeneList
from spikgpt.embedding.result import Embedding, EmbeddingReport
from spikgpt.embedding.vocabulary import Encoder, check_scaling
from spikgpt.labels.neighbours import content_keys, sample_of
from spikgpt.scgpt.embedding import Running, embed_cells
from spikgpt.scgpt.source import KIND, ScGPTSource
from spikgpt.training.embedders.base import Classify
from spikgpt.types import Floats


@dataclass(frozen=True)
class ScGPTEmbedder:
    """An scGPT checkpoint as an embedder; ``running`` says how to run it, and is not stored."""

    source: ScGPTSource
    running: Running = Running()
    # The vectors do not depend on the cells that the reference was trained on.
    fitted: bool = False

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return self.source.checkpoint.config.dim

    @property
    def genes(self) -> GeneList | None:
        """Genes that a reference has to keep: those of a bundled checkpoint."""
        return self.source.vocabulary.genes if self.source.bundled else None

    def embed(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        classify: Classify | None = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> Embedding:
        """Embed every cell of ``adata``; see :meth:`Embedder.embed`.

        Genes are found by symbol, Ensembl id or an older symbol. Their values are ranked within each cell, so counts
        and log values give the same.
        """
        check_scaling(scaling)
        expression = find_expression(adata, layer=layer)
        vocabulary = self.source.vocabulary
        cells = align(expression, vocabulary.genes, minimum_share=0)
        values, ids = cells.values, vocabulary.gene_ids
        if self.running.draws is not None:
            # Upstream draws for one gene after the other, in the query's order.
            columns = np.argsort(np.where(cells.found, cells.match.columns, len(expression.var)), kind="stable")
            values, ids = values[:, columns].sorted_indices(), ids[columns]
        vectors = embed_cells(
            self.source.checkpoint,
            values,
            ids,
            max_length=self.source.max_length,
            running=self.running,
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
        return self.source.encoder()

    def augment(self, adata: AnnData, *, layer: str | None = None, seed: int = 0) -> list[npt.NDArray[np.float64]]:
        """Return nothing: embedding cells twice would double the longest part of a training."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""
        return self.source.settings()

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedder."""
        return self.source.tensors()

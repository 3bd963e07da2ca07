"""Embedding by scGPT: read the counts of the genes in its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spikgpt.cells.align import AlignedCells, aligned_chunks
from spikgpt.cells.expression import Cells, find_expression
from spikgpt.cells.genes import GeneList, match_genes
from spikgpt.embedding.base import QueryCells, WithoutExpression
from spikgpt.embedding.vocabulary import Vocabulary
from spikgpt.errors import ConfigError
from spikgpt.types import Floats, InputReport


@dataclass(frozen=True)
class ScGPTEmbedding(WithoutExpression):
    """Embedding by an scGPT network with vectors of ``dim`` values.

    No scale is used, because genes are ranked within each cell. ``stored`` are the settings in ``config.json``.
    ``weights`` are the weights of a checkpoint inside the reference; empty if the reference contains no checkpoint.
    """

    vocabulary: Vocabulary
    dim: int
    stored: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Floats] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """Name of the embedding on the command line."""
        return "scgpt"

    def read(
        self,
        cells: Cells,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        gene_key: str | None = None,
        species: str | None = None,
    ) -> QueryCells:
        """Return the counts of the genes in the vocabulary, in chunks of cells.

        Values are ranked within each cell later, so counts and log values give the same tokens.

        Raises
        ------
        DataError
            When the cells cannot be read, or none of their genes is in the vocabulary.
        ConfigError
            When ``scaling`` is neither ``auto`` nor ``reference``.
        """
        if scaling not in ("auto", "reference"):
            msg = f"scaling is {scaling!r}, but scGPT ranks genes within each cell, without a scale. Leave scaling out."
            raise ConfigError(msg)
        expression = find_expression(cells, layer=layer, gene_key=gene_key)
        names: dict[str, Any] = {"cells": cells.obs_names, "gene_key": gene_key, "species": species}
        match = match_genes(expression.var, self.vocabulary.genes, minimum_share=0, **names)
        report = InputReport(
            source=expression.source,
            values=expression.kind,
            scaling="none",
            genes_matched=int(match.genes_present.sum()),
            genes_total=len(expression.var),
            notes=expression.notes + match.notes,
            of_query=True,
            orthologues_of=match.orthologues_of,
        )

        def chunks(rows: range, threads: int) -> Iterator[AlignedCells]:
            for chunk in aligned_chunks(expression, match, rows=rows, threads=threads):
                # A cell without genes of the vocabulary has no tokens.
                yield replace(chunk, totals=np.where(np.diff(chunk.values.indptr) == 0, 0.0, chunk.totals))

        return QueryCells(expression.n_cells, chunks, report, expression)

    @property
    def stored_genes(self) -> GeneList:
        """Genes for ``genes.json``: the vocabulary of a checkpoint inside the reference; empty without a checkpoint."""
        return self.vocabulary.genes if self.weights else GeneList((), ())

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``config.json``."""
        return self.stored

    def tensors(self) -> dict[str, Floats]:
        """Return the weights of a checkpoint inside the reference; empty without a checkpoint."""
        return self.weights

"""How cells are read for scGPT: the counts of the genes in its vocabulary."""

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
    """Reads cells for an scGPT network with vectors of ``dim`` values; ranks within a cell have no scale.

    ``stored`` is what ``config.json`` keeps of it, ``weights`` those of a checkpoint that the reference carries along.
    """

    vocabulary: Vocabulary
    dim: int
    stored: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Floats] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return "scgpt"

    def read(self, cells: Cells, *, layer: str | None = None, scaling: str = "auto") -> QueryCells:
        """Return the cells' counts of the genes in the vocabulary, to be read a few at a time.

        Values are ranked within each cell later, so counts and log values give the same.

        Raises
        ------
        DataError
            When the cells cannot be read, or none of their genes is in the vocabulary.
        ConfigError
            When a scaling is asked for, which ranks have no use for.
        """
        if scaling not in ("auto", "reference"):
            msg = f"scGPT reads the ranks of genes within a cell, so scaling={scaling!r} has no meaning; leave it out."
            raise ConfigError(msg)
        expression = find_expression(cells, layer=layer)
        match = match_genes(expression.var, self.vocabulary.genes, minimum_share=0, cells=cells.obs_names)
        report = InputReport(
            source=expression.source,
            values=expression.kind,
            scaling="none",
            genes_matched=int(match.found.sum()),
            genes_total=len(expression.var),
            notes=expression.notes + match.notes,
            of_query=True,
        )

        def chunks() -> Iterator[AlignedCells]:
            for chunk in aligned_chunks(expression, match):
                # A cell without such genes has no tokens.
                yield replace(chunk, totals=np.where(np.diff(chunk.values.indptr) == 0, 0.0, chunk.totals))

        return QueryCells(expression.n_cells, chunks(), report)

    @property
    def stored_genes(self) -> GeneList:
        """What ``genes.json`` keeps: the vocabulary's of a checkpoint that the reference carries along."""
        return self.vocabulary.genes if self.weights else GeneList((), ())

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedding."""
        return self.stored

    def tensors(self) -> dict[str, Floats]:
        """Return the weights of a checkpoint that the reference carries along, else nothing."""
        return self.weights

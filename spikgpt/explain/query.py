"""Fitted query: the data on a query and its reference that explanations and reports need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.base import Engine
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.query_model import QueryModel
from spikgpt.reference.files import Reference
from spikgpt.scoring.annotation import Annotation
from spikgpt.types import Rows


@dataclass(frozen=True, repr=False)
class FittedQuery:
    """Reference, engine, and the model that was fitted to a sample of k cells of a query.

    Attributes
    ----------
    model
        Model of the query. ``model.smoother`` has the rows of the sample in the query, the coordinates of its cells and
        their neighbours. ``model.scores`` has the probabilities of the sample before calibration.
    template
        Cells of the query, with no rows left. The template tells which genes of the reference the query has.
    """

    reference: Reference
    engine: Engine
    model: QueryModel
    template: AlignedCells

    @property
    def rows(self) -> Rows:
        """Row numbers of the sample in the query, ascending, shape (k,)."""
        return self.model.smoother.rows

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Symbols of the G genes that query and reference share; empty if the reference reads no genes."""
        return self.engine.embedding.gene_names(self.template) or ()

    @property
    def logs(self) -> sparse.csr_matrix | None:
        """Log expression of the sample in the shared genes, shape (k, G); None if the reference reads no genes."""
        return None if self.model.scorer is None else self.model.scorer.logs

    @property
    def cells(self) -> AlignedCells:
        """Cells of the sample as input for the embedding.

        Their values are computed back from the log expression, :attr:`logs`. The total of each cell is the total to
        which the embedding normalises.
        """
        embedding = self.engine.embedding
        assert self.logs is not None
        assert isinstance(embedding, PCAProjection)  # no other embedding has log expression
        logs = self.logs.tocoo()
        columns = np.flatnonzero(self.template.genes_present)
        shape = logs.shape[0], self.template.values.shape[1]
        values = sparse.csr_matrix((np.expm1(logs.data), (logs.row, columns[logs.col])), shape)
        return replace(self.template, values=values, totals=np.full(shape[0], embedding.target_sum))


def fitted_queries(annotation: Annotation) -> dict[str, FittedQuery]:
    """Return the FittedQuery of each reference, by the name of the reference; empty if shards were annotated."""
    queries = annotation.queries.items() or [(annotation.reference_name, annotation.query)]
    return {name: query for name, query in queries if isinstance(query, FittedQuery)}

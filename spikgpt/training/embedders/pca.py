"""The embedder of a reference that learns from its own cells: variable genes, scaling, principal components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.cells.expression import AlignedCells, align, find_expression
from spikgpt.embedding.pca import KIND, PCAProjection, Scale
from spikgpt.embedding.result import Embedding, EmbeddingReport
from spikgpt.labels.neighbours import content_keys, sample_of
from spikgpt.training.embedders.base import Classify
from spikgpt.training.pca import augmented, fit_pca
from spikgpt.types import Strings


class PCAEmbedder(PCAProjection):
    """Principal components of a reference's variable genes; how a query is seen in them is told in the base class."""

    fitted = True

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

    @classmethod
    def fit(cls, adata: AnnData, labels: Strings, *, layer: str | None = None, seed: int = 0) -> PCAEmbedder:
        """Fit to labelled cells; see :func:`spikgpt.training.pca.fit_pca`."""
        return cls(**vars(fit_pca(adata, labels, layer=layer, seed=seed)))

    def embed(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        classify: Classify | None = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> Embedding:
        """Embed every cell of ``adata``; see :meth:`Embedder.embed`, and :meth:`query_scale` for ``scaling``."""
        expression = find_expression(adata, layer=layer)
        cells = align(expression, self.genes)
        filled = cells.part(~cells.empty)
        shown = sample_of(content_keys(filled.values))
        sample = filled.part(shown)

        def labelled(part: AlignedCells, scale: Scale) -> npt.NDArray[np.float64]:
            return classify(self.project(part.values, part.totals, scale))  # type: ignore[misc]

        scale, used, notes = self.query_scale(sample, scaling, labelled if classify else None)
        report = EmbeddingReport(
            source=expression.source,
            values=cells.kind,
            scaling=used,
            genes_matched=int(cells.found.sum()),
            genes_total=len(self.genes),
            notes=cells.notes + notes,
        )
        vectors = self.project(cells.values, cells.totals, scale, on_cells)
        logs = self.logs(filled)
        points = self.own_space(sample).place(logs)
        return Embedding(vectors, cells.empty, report, points, shown, logs, self.profiles(cells.found))

    def augment(self, adata: AnnData, *, layer: str | None = None, seed: int = 0) -> list[npt.NDArray[np.float64]]:
        """Return the vectors of the cells as another sample might show them."""
        return augmented(self, adata, layer=layer, seed=seed)

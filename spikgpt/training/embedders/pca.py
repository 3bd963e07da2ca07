"""The embedder of a reference that learns from its own cells: variable genes, scaling, principal components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scanpy
from anndata import AnnData
from scipy import sparse
from sklearn.feature_selection import f_classif

from spikgpt.cells.align import AlignedCells, align, log_normalise, mean_and_std
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, genes_of
from spikgpt.embedding.pca import CHUNK, KIND, PCAProjection, Scale
from spikgpt.embedding.result import Embedding, EmbeddingReport
from spikgpt.sampling import content_keys, sample_of
from spikgpt.training.embedders.base import Classify

# Added to a gene's deviation within labels, as a share of the median deviation, so that no gene is blown up.
WITHIN_FLOOR = 0.1
# Genes seen in fewer cells differ between labels by chance.
MINIMUM_EXPRESSING = 3
# Another sample's depth as a share of this one's, and the most ambient RNA that a cell is given.
AUGMENTED_DEPTH, LARGEST_AMBIENT = (0.3, 1.0), 0.6


class PCAEmbedder(PCAProjection):
    """Principal components of a reference's variable genes; how a query is seen in them is told in the base class."""

    fitted = True

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

    @classmethod
    def fit(
        cls,
        adata: AnnData,
        labels: npt.NDArray[np.str_],
        *,
        layer: str | None = None,
        n_genes: int = 1000,
        n_components: int = 64,
        clip: float = 5.0,
        seed: int = 0,
    ) -> PCAEmbedder:
        """Fit to labelled cells.

        Genes are chosen by how much their mean differs between labels (ANOVA F), and scaled by their deviation within
        labels. Across donors and studies both beat the choice and the scaling by overall dispersion.

        Parameters
        ----------
        labels
            Label of each cell, shape (n,).
        layer
            Layer to read; by default the best expression values that the AnnData holds.
        clip
            Largest scaled value, in standard deviations, either way.
        seed
            For the randomised start of the PCA.

        Raises
        ------
        DataError
            When the cells cannot be read.
        """
        expression = find_expression(adata, layer=layer)
        everything = genes_of(expression.var)
        cells = align(expression, everything)
        used = ~cells.empty
        logs, labels = log_normalise(cells.values, cells.totals)[used], labels[used]
        chosen = _most_variable(logs, labels, n_genes)
        genes = GeneList(
            tuple(everything.symbols[index] for index in chosen),
            tuple(everything.ensembl_ids[index] for index in chosen),
        )
        logs = sparse.csr_matrix(logs[:, chosen])
        names, shares = np.unique(labels, return_counts=True)
        by_label = [mean_and_std(logs[labels == name]) for name in names]
        label_means, label_stds = (np.stack(rows) for rows in zip(*by_label, strict=True))
        mean, overall = mean_and_std(logs)
        within = np.sqrt(shares / shares.sum() @ label_stds**2)
        std = within + WITHIN_FLOOR * np.median(overall)
        training = AnnData(np.clip((logs.toarray() - mean) / std, -clip, clip).astype(np.float32))
        size = min(n_components, len(genes) - 1, training.n_obs - 1)
        scanpy.pp.pca(training, n_comps=size, zero_center=True, svd_solver="arpack", random_state=seed)
        return cls(
            genes=genes,
            mean=mean.astype(np.float32),
            std=std.astype(np.float32),
            components=np.ascontiguousarray(training.varm["PCs"], dtype=np.float32),
            label_means=label_means.astype(np.float32),
            label_stds=label_stds.astype(np.float32),
            label_shares=(shares / shares.sum()).astype(np.float32),
            clip=float(clip),
        )

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

        Parameters
        ----------
        layer
            Layer to read; by default the best expression values that the AnnData holds.
        scaling
            As in :meth:`query_scale`.
        classify
            From vectors, shape (n, dim), to label probabilities, shape (n, L); needed for ``auto`` and ``composition``.
        on_cells
            Called with the number of cells done since the last call.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        ConfigError
            When there is no such scaling.
        """
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
        """Return the vectors of the cells as another sample might show them: fewer counts, and ambient RNA among them.

        Samples differ in depth, and in how much RNA of burst cells every droplet takes up. A cell keeps a share of its
        counts, uniform over ``AUGMENTED_DEPTH``; a Beta(1, 4) share of what remains is the mean profile of the cells;
        counts are drawn from a Poisson distribution. Only raw counts can be drawn again; other values give no copy.
        """
        cells = align(find_expression(adata, layer=layer), self.genes)
        if cells.kind != "counts":
            return []
        random = np.random.default_rng(seed)
        totals = np.maximum(cells.totals, 1.0)
        depths = totals * random.uniform(*AUGMENTED_DEPTH, len(totals))  # (n,)
        ambient = np.minimum(random.beta(1, 4, len(totals)), LARGEST_AMBIENT)  # (n,)
        profile = np.asarray(cells.values.sum(axis=0, dtype=np.float64)).ravel() / totals.sum()  # (G,)
        vectors = np.empty((len(totals), self.dim))
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            share = ambient[part, None]
            own = cells.values[part].toarray() / totals[part, None]
            drawn = random.poisson(depths[part, None] * ((1 - share) * own + share * profile))  # (chunk, G)
            vectors[part] = self.project(drawn.astype(np.float64), depths[part])
        return [vectors]


def _most_variable(logs: sparse.csr_matrix, labels: npt.NDArray[np.str_], n_genes: int) -> npt.NDArray[np.int64]:
    """Return the sorted columns of the genes whose means differ most between labels, of those that vary."""
    _, std = mean_and_std(logs)
    varying = np.flatnonzero((std > 1e-6) & (logs.getnnz(axis=0) >= MINIMUM_EXPRESSING))
    ratio, _ = f_classif(sparse.csr_matrix(logs[:, varying]), labels)
    # Stable, so that ties fall by gene name.
    best = np.argsort(-np.nan_to_num(ratio, nan=-1.0, posinf=np.finfo(float).max), kind="stable")[:n_genes]
    return np.sort(varying[best])

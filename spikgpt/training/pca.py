"""Fit the PCA embedding and the gene imputer of a reference to its labelled cells."""

from __future__ import annotations

import numpy as np
import scanpy
from anndata import AnnData
from scipy import sparse
from sklearn.feature_selection import f_classif

from spikgpt.cells.align import AlignedCells, log_normalise, mean_and_std
from spikgpt.cells.genes import GeneList
from spikgpt.embedding.imputation import GeneImputer
from spikgpt.embedding.pca import CHUNK, PCAProjection
from spikgpt.types import Floats, Rows, Scale, Strings

# Added to a gene's deviation within labels, as a share of the median deviation: no gene is scaled up without limit.
WITHIN_FLOOR = 0.1
# Cells that must express a gene. The labels differ by chance in rarer genes.
MINIMUM_EXPRESSING = 3
# Other genes that are stored, to impute genes of a projection that a query lacks.
MOST_OTHERS = 12_000


def fit_pca(
    cells: AlignedCells,
    genes: GeneList,
    labels: Strings,
    *,
    n_genes: int = 1000,
    n_components: int = 64,
    clip: float = 5.0,
    seed: int = 0,
) -> PCAProjection:
    """Fit principal components to labelled cells.

    Genes are selected by how much their mean differs between labels (ANOVA F), and scaled by their deviation within
    labels. Across donors and studies both give better labels than selection and scaling by overall dispersion.

    Parameters
    ----------
    cells, genes
        Values of every gene, and the genes. Empty cells are ignored.
    labels
        Label of each cell, shape (n,).
    clip
        Largest absolute scaled value, in standard deviations.
    seed
        Seed of the randomised start of the PCA.
    """
    cells, labels = cells.part(~cells.empty), labels[~cells.empty]
    logs = log_normalise(cells.values, cells.totals)
    moments = mean_and_std(logs)
    chosen = np.sort(_most_different(logs, labels, moments)[:n_genes])
    logs = sparse.csr_matrix(logs[:, chosen])
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    mean, std, label_means, label_stds = _gene_statistics(logs, labels, shares, moments[0][chosen], moments[1][chosen])
    training = AnnData(np.clip((logs.toarray() - mean) / std, -clip, clip).astype(np.float32))
    size = min(n_components, len(chosen) - 1, training.n_obs - 1)
    scanpy.pp.pca(training, n_comps=size, zero_center=True, svd_solver="arpack", random_state=seed)
    return PCAProjection(
        genes=genes.part(chosen),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        components=np.ascontiguousarray(training.varm["PCs"], dtype=np.float32),
        label_means=label_means.astype(np.float32),
        label_stds=label_stds.astype(np.float32),
        label_shares=shares.astype(np.float32),
        clip=float(clip),
    )


def fit_imputer(projection: PCAProjection, cells: AlignedCells, genes: GeneList, labels: Strings) -> GeneImputer | None:
    """Fit the imputation of genes of a projection from other genes.

    The other genes are those that differ most between labels; None where no other gene varies.

    Parameters
    ----------
    cells, genes, labels
        As for :func:`fit_pca`, with the labels that the projection was fitted to.
    """
    cells, labels = cells.part(~cells.empty), labels[~cells.empty]
    logs = log_normalise(cells.values, cells.totals, projection.target_sum)
    moments = mean_and_std(logs)
    own = genes.positions(projection.genes)
    ranked = _most_different(logs, labels, moments)
    chosen = ranked[~np.isin(ranked, own)][:MOST_OTHERS]
    if not len(chosen):
        return None
    logs = sparse.csr_matrix(logs[:, chosen])
    statistics = _gene_statistics(logs, labels, projection.label_shares, moments[0][chosen], moments[1][chosen])
    mean, std, label_means, label_stds = statistics
    scores = projection.scores(cells.values[:, own], cells.totals)
    products = np.zeros((len(chosen), projection.dim))
    centred = scores - scores.mean(axis=0)
    for start in range(0, len(scores), CHUNK):
        part = slice(start, start + CHUNK)
        scaled = np.clip((logs[part].toarray() - mean) / std, -projection.clip, projection.clip)  # (chunk, E)
        products += scaled.T @ centred[part]
    names, index = np.unique(labels, return_inverse=True)
    centroids = np.stack([scores[index == label].mean(axis=0) for label in range(len(names))])
    within = scores - centroids[index]
    loadings = products / np.maximum((centred**2).sum(axis=0), 1e-12)
    return GeneImputer(
        genes=genes.part(chosen),
        mean=mean.astype(np.float16),
        std=std.astype(np.float16),
        loadings=loadings.astype(np.float16),
        label_means=label_means.astype(np.float16),
        label_stds=label_stds.astype(np.float16),
        centroids=centroids.astype(np.float32),
        scatter=(within.T @ within / len(within)).astype(np.float32),
    )


def _gene_statistics(
    logs: sparse.csr_matrix, labels: Strings, shares: Floats, mean: Floats, overall: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return statistics of log expression, shape (n, G), given the labels, (n,), and the share of each label, (L,).

    ``mean`` and ``overall`` are the mean and the standard deviation of each gene, (G,).

    Returns
    -------
    Mean and scale of each gene, each of shape (G,); mean and deviation in each label, each of shape (L, G).
    """
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # One product for all labels: one matrix per label is far slower for many labels with few cells.
    averaging = sparse.csr_matrix((1 / counts[codes], (codes, np.arange(len(labels)))), (len(names), len(labels)))
    values = logs.astype(np.float64)
    label_means, squares = ((averaging @ part).toarray() for part in (values, values.multiply(values)))
    label_stds = np.sqrt(np.maximum(squares - label_means**2, 0.0))
    return mean, np.sqrt(shares @ label_stds**2) + WITHIN_FLOOR * np.median(overall), label_means, label_stds


def _most_different(logs: sparse.csr_matrix, labels: Strings, moments: Scale) -> Rows:
    """Return the columns of the genes that vary, by how much the means differ between labels, the largest first."""
    varying = np.flatnonzero((moments[1] > 1e-6) & (logs.getnnz(axis=0) >= MINIMUM_EXPRESSING))
    ratio, _ = f_classif(sparse.csr_matrix(logs[:, varying]), labels)
    # A stable sort orders ties by gene name.
    order = np.argsort(-np.nan_to_num(ratio, nan=-1.0, posinf=np.finfo(float).max), kind="stable")
    return np.asarray(varying[order])

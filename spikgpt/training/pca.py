"""Fit the PCA embedding of a reference to its own labelled cells, and show its cells as another sample might."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scanpy
from anndata import AnnData
from scipy import sparse
from sklearn.feature_selection import f_classif

from spikgpt.cells.align import AlignedCells, align, log_normalise, mean_and_std
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, genes_of
from spikgpt.embedding.imputation import GeneImputer
from spikgpt.embedding.pca import CHUNK, PCAProjection
from spikgpt.types import Bools, Floats, Rows, Strings

# Added to a gene's deviation within labels, as a share of the median deviation, so that no gene is blown up.
WITHIN_FLOOR = 0.1
# Genes seen in fewer cells differ between labels by chance.
MINIMUM_EXPRESSING = 3
# Other genes that are kept, to infer those of a projection that a query lacks.
MOST_OTHERS = 12_000
# A cell as another sample might show it: its depth as a share of this one's, and the most ambient RNA that it is given.
OTHER_DEPTH, LARGEST_AMBIENT = (0.3, 1.0), 0.6


def fit_pca(
    adata: AnnData,
    labels: Strings,
    *,
    layer: str | None = None,
    n_genes: int = 1000,
    n_components: int = 64,
    clip: float = 5.0,
    seed: int = 0,
) -> PCAProjection:
    """Fit principal components to labelled cells.

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
    cells, used, everything = every_gene(adata, layer)
    logs, labels = log_normalise(cells.values, cells.totals), labels[used]
    chosen = _most_different(logs, labels, n_genes)
    genes, logs = everything.part(chosen), sparse.csr_matrix(logs[:, chosen])
    names, shares = np.unique(labels, return_counts=True)
    mean, std, label_means, label_stds = _described(logs, labels, shares / shares.sum())
    training = AnnData(np.clip((logs.toarray() - mean) / std, -clip, clip).astype(np.float32))
    size = min(n_components, len(genes) - 1, training.n_obs - 1)
    scanpy.pp.pca(training, n_comps=size, zero_center=True, svd_solver="arpack", random_state=seed)
    return PCAProjection(
        genes=genes,
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        components=np.ascontiguousarray(training.varm["PCs"], dtype=np.float32),
        label_means=label_means.astype(np.float32),
        label_stds=label_stds.astype(np.float32),
        label_shares=(shares / shares.sum()).astype(np.float32),
        clip=float(clip),
    )


def more_genes(
    projection: PCAProjection, adata: AnnData, labels: Strings, *, layer: str | None = None
) -> GeneImputer | None:
    """Return what labelled cells express beside the genes of a projection that was fitted to their labels.

    These are the genes that differ most between labels, of those that vary; None where there are none.
    """
    cells, used, everything = every_gene(adata, layer)
    logs, labels = log_normalise(cells.values, cells.totals, projection.target_sum), labels[used]
    known = set(projection.genes.symbols)
    others = np.array([symbol not in known for symbol in everything.symbols])
    ranked = _most_different(logs, labels, len(everything), in_order=True)
    chosen = ranked[others[ranked]][:MOST_OTHERS]
    if not len(chosen):
        return None
    place = {symbol: at for at, symbol in enumerate(everything.symbols)}
    own = cells.values[:, [place[symbol] for symbol in projection.genes.symbols]]
    logs = sparse.csr_matrix(logs[:, chosen])
    mean, std, label_means, label_stds = _described(logs, labels, projection.label_shares)
    scores = projection.scores(own, cells.totals)
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
        genes=everything.part(chosen),
        mean=mean.astype(np.float16),
        std=std.astype(np.float16),
        loadings=loadings.astype(np.float16),
        label_means=label_means.astype(np.float16),
        label_stds=label_stds.astype(np.float16),
        centroids=centroids.astype(np.float32),
        scatter=(within.T @ within / len(within)).astype(np.float32),
    )


def augmented(projection: PCAProjection, cells: AlignedCells, *, seed: int = 0) -> list[npt.NDArray[np.float64]]:
    """Return the vectors of aligned cells as another sample might show them, an array of shape (n, dim) or none.

    Samples differ in depth, and in how much RNA of burst cells every droplet takes up. A cell keeps a share of its
    counts, uniform over ``OTHER_DEPTH``; a Beta(1, 4) share of what remains is the mean profile of the cells; counts
    are drawn from a Poisson distribution. Only raw counts can be drawn again.
    """
    if cells.kind != "counts":
        return []
    random = np.random.default_rng(seed)
    totals = np.maximum(cells.totals, 1.0)
    depths = totals * random.uniform(*OTHER_DEPTH, len(totals))  # (n,)
    ambient = np.minimum(random.beta(1, 4, len(totals)), LARGEST_AMBIENT)  # (n,)
    profile = np.asarray(cells.values.sum(axis=0, dtype=np.float64)).ravel() / totals.sum()  # (G,)
    vectors = np.empty((len(totals), projection.dim))
    for start in range(0, len(vectors), CHUNK):
        part = slice(start, start + CHUNK)
        share = ambient[part, None]
        own = cells.values[part].toarray() / totals[part, None]
        drawn = random.poisson(depths[part, None] * ((1 - share) * own + share * profile))  # (chunk, G)
        vectors[part] = projection.project(drawn.astype(np.float64), depths[part])
    return [vectors]


def every_gene(adata: AnnData, layer: str | None) -> tuple[AlignedCells, Bools, GeneList]:
    """Return the values of every gene in the cells that have any, which cells these are, and the genes."""
    expression = find_expression(adata, layer=layer)
    genes = genes_of(expression.var)
    cells = align(expression, genes)
    return cells.part(~cells.empty), ~cells.empty, genes


def _described(logs: sparse.csr_matrix, labels: Strings, shares: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Describe the log expression of genes, (n, G), in cells of some labels, (n,), of which each has a share, (L,).

    Returns
    -------
    Mean and deviation that genes are scaled by, each of shape (G,); mean and deviation in each label, of shape (L, G).
    """
    label_means, label_stds = _by_label(logs, labels)
    mean, overall = mean_and_std(logs)
    return mean, np.sqrt(shares @ label_stds**2) + WITHIN_FLOOR * np.median(overall), label_means, label_stds


def _by_label(logs: sparse.csr_matrix, labels: Strings) -> tuple[Floats, Floats]:
    """Return the mean and the deviation of each gene, (n, G), in the cells of each label, (n,): two of shape (L, G)."""
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # One product for all labels: a matrix for each of many labels with few cells takes far longer.
    shares = sparse.csr_matrix((1 / counts[codes], (codes, np.arange(len(labels)))), (len(names), len(labels)))
    values = logs.astype(np.float64)
    means, squares = ((shares @ part).toarray() for part in (values, values.multiply(values)))
    return means, np.sqrt(np.maximum(squares - means**2, 0.0))


def _most_different(logs: sparse.csr_matrix, labels: Strings, n_genes: int, *, in_order: bool = False) -> Rows:
    """Return the columns of the genes whose means differ most between labels, of those that vary.

    They are sorted, or with ``in_order`` the most different is first.
    """
    _, std = mean_and_std(logs)
    varying = np.flatnonzero((std > 1e-6) & (logs.getnnz(axis=0) >= MINIMUM_EXPRESSING))
    ratio, _ = f_classif(sparse.csr_matrix(logs[:, varying]), labels)
    # Stable, so that ties fall by gene name.
    best = np.argsort(-np.nan_to_num(ratio, nan=-1.0, posinf=np.finfo(float).max), kind="stable")[:n_genes]
    return varying[best] if in_order else np.sort(varying[best])

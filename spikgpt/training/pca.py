"""Fit the PCA embedding and the gene imputer of a reference to its labelled cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from spikgpt.cells.align import AlignedCells, log_normalise, mean_and_std
from spikgpt.cells.genes import GeneList
from spikgpt.embedding.imputation import GeneImputer
from spikgpt.embedding.pca import CHUNK, PCAProjection
from spikgpt.training.rounding import round_bits, round_steps
from spikgpt.types import Floats, Rows, Scale, Strings

# Share of the median deviation that is added to each gene's deviation within labels, so that no gene is scaled up
# without limit.
WITHIN_FLOOR = 0.1
# Lowest number of cells that must express a gene. In rarer genes, labels differ by chance.
MINIMUM_EXPRESSING = 3
# Largest number of other genes that are stored. Genes of the projection that a query lacks are imputed from these.
MOST_OTHERS = 6000
# Loadings and label means of the other genes are rounded to multiples of these steps, and deviations to these bits.
LOADING_STEP, MEAN_STEP, STD_BITS = 2**-7, 2**-6, 3


def fit_pca(
    cells: AlignedCells,
    genes: GeneList,
    labels: Strings,
    *,
    impute: bool = False,
    n_genes: int = 1000,
    n_components: int = 64,
    clip: float = 5.0,
    seed: int = 0,
) -> PCAProjection:
    """Fit principal components to labelled cells.

    The selected genes have the largest differences between label means (F of an ANOVA). They are scaled by their
    standard deviation within labels. Across donors and studies, this selection and scaling gives better labels than
    selection and scaling by overall dispersion.

    Parameters
    ----------
    cells, genes
        Values of every gene, and the genes. Empty cells are ignored.
    labels
        Label of each cell, shape (n,).
    impute
        True to also fit the imputation of genes that a query lacks. They are imputed from other genes that differ most
        between labels.
    clip
        Largest absolute scaled value, in standard deviations.
    seed
        Seed of the random start vector of the PCA.
    """
    if cells.empty.any():
        cells, labels = cells.part(~cells.empty), labels[~cells.empty]
    logs = log_normalise(cells.values, cells.totals)
    moments = mean_and_std(logs)
    ranked = _most_different(logs, labels, moments)
    chosen, other_genes = np.sort(ranked[:n_genes]), ranked[n_genes:][:MOST_OTHERS]
    variable = sparse.csr_matrix(logs[:, chosen])
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    of_chosen = moments[0][chosen], moments[1][chosen]
    mean, std, label_means, label_stds = _gene_statistics(variable, labels, shares, *of_chosen)
    scaled = np.clip((variable.toarray() - mean) / std, -clip, clip).astype(np.float32)  # (n, G)
    components = principal_components(scaled, min(n_components, len(chosen) - 1, len(scaled) - 1), seed)
    projection = PCAProjection(
        genes=genes.part(chosen),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        components=round_bits(np.ascontiguousarray(components)),
        label_means=label_means.astype(np.float32),
        label_stds=label_stds.astype(np.float32),
        label_shares=shares.astype(np.float32),
        clip=float(clip),
    )
    if not impute or not len(other_genes):
        return projection
    scores = scaled.astype(np.float64) @ projection.components.astype(np.float64)  # (n, D)
    of_others = moments[0][other_genes], moments[1][other_genes]
    imputer = _fit_imputer(
        projection, scores, sparse.csr_matrix(logs[:, other_genes]), labels, genes.part(other_genes), of_others
    )
    return replace(projection, imputer=imputer)


def _fit_imputer(
    projection: PCAProjection, scores: Floats, logs: sparse.csr_matrix, labels: Strings, genes: GeneList, moments: Scale
) -> GeneImputer:
    """Fit the imputation of the genes of a projection from E other genes.

    Parameters
    ----------
    scores, logs, labels
        Scores of n cells on the components, shape (n, D), log expression of the other genes, shape (n, E), and labels,
        shape (n,).
    genes, moments
        The other genes, and the mean and the standard deviation of each, each of shape (E,).
    """
    mean, std, label_means, label_stds = _gene_statistics(logs, labels, projection.label_shares, *moments)
    products, centred = np.zeros((len(genes), projection.dim)), scores - scores.mean(axis=0)
    # Most values are 0, and scale to one number per gene. So only the other values need a product for each cell.
    zeros = np.clip(-mean / std, -projection.clip, projection.clip)  # (E,)
    for start in range(0, len(scores), CHUNK):
        part = slice(start, start + CHUNK)
        scaled = logs[part].astype(np.float64)
        columns = scaled.indices
        values = np.clip((scaled.data - mean[columns]) / std[columns], -projection.clip, projection.clip)
        scaled.data = values - zeros[columns]
        products += scaled.T @ centred[part] + np.outer(zeros, centred[part].sum(axis=0))
    names, index = np.unique(labels, return_inverse=True)
    centroids = np.stack([scores[index == label].mean(axis=0) for label in range(len(names))])
    within = scores - centroids[index]
    loadings = products / np.maximum((centred**2).sum(axis=0), 1e-12)
    return GeneImputer(
        genes=genes,
        mean=mean.astype(np.float16),
        std=std.astype(np.float16),
        loadings=round_steps(loadings, LOADING_STEP).astype(np.float16),
        label_means=round_steps(label_means, MEAN_STEP).astype(np.float16),
        label_stds=round_bits(label_stds.astype(np.float16), STD_BITS),
        centroids=centroids.astype(np.float32),
        scatter=(within.T @ within / len(within)).astype(np.float32),
    )


def _gene_statistics(
    logs: sparse.csr_matrix, labels: Strings, shares: Floats, mean: Floats, overall: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return statistics of log expression, shape (n, G), overall and in each label.

    ``labels`` are the labels of the cells, shape (n,), and ``shares`` the share of each label, shape (L,). ``mean`` and
    ``overall`` are the mean and the standard deviation of each gene, both of shape (G,).

    Returns
    -------
    Mean and scale of each gene, each of shape (G,); mean and deviation in each label, each of shape (L, G).
    """
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # One product serves all labels, as one matrix per label is far slower for many labels with few cells.
    averaging = sparse.csr_matrix((1 / counts[codes], (codes, np.arange(len(labels)))), (len(names), len(labels)))
    values = logs.astype(np.float64)
    label_means, squares = ((averaging @ part).toarray() for part in (values, values.multiply(values)))
    label_stds = np.sqrt(np.maximum(squares - label_means**2, 0.0))
    return mean, np.sqrt(shares @ label_stds**2) + WITHIN_FLOOR * np.median(overall), label_means, label_stds


def _most_different(logs: sparse.csr_matrix, labels: Strings, moments: Scale) -> Rows:
    """Return the columns of the genes that vary, sorted by their ANOVA F between labels, the largest first."""
    varying = np.flatnonzero((moments[1] > 1e-6) & (logs.getnnz(axis=0) >= MINIMUM_EXPRESSING))
    ratio = anova(sparse.csr_matrix(logs[:, varying]), labels)
    # A stable sort orders ties by gene name.
    order = np.argsort(-np.nan_to_num(ratio, nan=-1.0, posinf=np.finfo(float).max), kind="stable")
    return np.asarray(varying[order])


def anova(logs: sparse.csr_matrix, labels: Strings) -> Floats:
    """Return the F of a one-way analysis of variance (ANOVA) of each gene between the labels, shape (G,).

    The result is that of scikit-learn's ``f_classif``.

    Sums are in single precision, as in scikit-learn. Importing scikit-learn itself would double the import time.
    """
    names, counts = np.unique(labels, return_counts=True)
    parts = (logs[labels == name] for name in names)
    sums, squares = [], []
    for part in parts:
        sums.append(np.asarray(part.sum(axis=0)).ravel())
        part.data **= 2
        squares.append(np.asarray(part.sum(axis=0)).ravel())
    correction = sum(sums) ** 2 / float(len(labels))
    between = sum(total**2 / count for total, count in zip(sums, counts, strict=True)) - correction
    within = sum(squares) - correction - between
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((between / (len(names) - 1)) / (within / (len(labels) - len(names))))


def principal_components(scaled: npt.NDArray[np.float32], count: int, seed: int) -> npt.NDArray[np.float32]:
    """Return the principal components, shape (G, count), of scaled expression, shape (n, G), largest variance first.

    The components equal those of scikit-learn's ``PCA`` with ARPACK, to the bit. The largest value of each component is
    positive.
    """
    # The start vector comes from NumPy's legacy generator, as in all earlier versions of this library.
    start = np.random.RandomState(seed).uniform(-1, 1, min(scaled.shape))
    rows = svds(scaled - scaled.mean(axis=0), k=count, v0=start)[2][::-1]  # (count, G)
    signs = np.sign(rows[np.arange(count), np.abs(rows).argmax(axis=1)])
    return np.asarray((rows * signs[:, None]).T)

"""The fit of the PCA embedding equals plain NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.feature_selection import f_classif

from spikgpt.cells.align import log_normalise
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.opening import torch_engine
from spikgpt.reference.files import Reference
from spikgpt.training.cells import read_every_gene
from spikgpt.training.pca import LOADING_STEP, MOST_OTHERS, anova, fit_pca, principal_components
from tests.conftest import aligned


def projection_of(reference: Reference) -> PCAProjection:
    projection = torch_engine(reference).embedding
    assert isinstance(projection, PCAProjection)
    return projection


def vectors_of(reference: Reference, adata: AnnData) -> npt.NDArray[np.float64]:
    """Return the PCA vectors of cells, shape (cells, dim), with genes scaled as in the reference."""
    cells, projection = aligned(reference, adata), projection_of(reference)
    return projection.project(cells.values, cells.totals)


def test_the_fit_equals_plain_numpy(small: Reference, cells: AnnData) -> None:
    embedder = projection_of(small)
    counts = cells.X.toarray().astype(np.float64)
    columns = {name: column for column, name in enumerate(cells.var_names)}
    chosen = [columns[symbol] for symbol in embedder.genes.symbols]
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, chosen]
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    names, sizes = np.unique(labels, return_counts=True)
    shares = sizes / sizes.sum()
    np.testing.assert_allclose(embedder.mean, logs.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(embedder.label_means, [logs[labels == n].mean(axis=0) for n in names], atol=1e-5)
    np.testing.assert_allclose(embedder.label_shares, shares, atol=1e-6)
    variances = np.stack([logs[labels == n].var(axis=0) for n in names])
    assert np.all(embedder.std**2 >= shares @ variances - 1e-6)
    assert np.linalg.norm(vectors_of(small, cells), axis=1) == pytest.approx(1)


def test_the_fit_depends_on_neither_storage_nor_gene_order(cells: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    order = np.random.default_rng(0).permutation(cells.n_vars)
    first = fit_pca(*read_every_gene(cells, None)[:2], labels)
    shuffled = cells[:, order].copy()
    shuffled.X = shuffled.X.toarray()
    second = fit_pca(*read_every_gene(shuffled, None)[:2], labels)
    assert second.genes == first.genes
    for name, tensor in first.tensors().items():
        np.testing.assert_array_equal(second.tensors()[name], tensor)


def test_loadings_are_the_slopes_of_scaled_genes_on_scores(cells: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    every, genes, _ = read_every_gene(cells, None)
    projection = fit_pca(every, genes, labels, impute=True, n_genes=300)
    assert fit_pca(every, genes, labels, n_genes=300).imputer is None
    imputer = projection.imputer
    assert imputer is not None
    assert not set(imputer.genes.symbols) & set(projection.genes.symbols)
    assert len(imputer.genes) <= MOST_OTHERS
    scores = projection.scores(every.values[:, genes.positions(projection.genes)], every.totals)
    some = genes.positions(imputer.genes)[:500]
    logs = log_normalise(every.values, every.totals)[:, some].toarray().astype(np.float64)
    scaled = np.clip((logs - imputer.mean[:500]) / imputer.std[:500], -projection.clip, projection.clip)
    centred = scores - scores.mean(axis=0)
    expected = scaled.T @ centred / (centred**2).sum(axis=0)
    np.testing.assert_allclose(imputer.loadings[:500], expected, atol=LOADING_STEP / 2 + 1e-3)
    np.testing.assert_array_equal(imputer.loadings / LOADING_STEP, np.round(imputer.loadings / LOADING_STEP))
    assert (imputer.label_stds[:, :500].max(axis=0) > 0).all()
    means = np.stack([scores[labels == name].mean(axis=0) for name in np.unique(labels)])
    np.testing.assert_allclose(imputer.centroids, means, atol=1e-3)


def test_the_f_statistic_equals_that_of_scikit_learn(cells: AnnData) -> None:
    aligned_cells, _, _ = read_every_gene(cells, None)
    logs = log_normalise(aligned_cells.values, aligned_cells.totals)
    logs = sparse.csr_matrix(logs[:, np.flatnonzero(logs.getnnz(axis=0) >= 3)])
    labels, before = np.asarray(cells.obs["cell_type"].astype(str)), logs.copy()
    expected, _ = f_classif(logs, labels)
    np.testing.assert_array_equal(anova(logs, labels), expected)
    assert (logs != before).nnz == 0


def test_components_equal_those_of_scikit_learn() -> None:
    scaled = np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32) * np.linspace(1, 3, 40, dtype=np.float32)
    expected = PCA(7, svd_solver="arpack", random_state=3).fit(scaled.copy()).components_.T
    np.testing.assert_array_equal(principal_components(scaled, 7, seed=3), expected)

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse
from spikgpt.training.reference import Reference

from spikgpt.embedding.pca import PCAProjection
from spikgpt.training.pca import augmented, fit_pca


def test_the_fit_depends_on_neither_storage_nor_gene_order(cells: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    order = np.random.default_rng(0).permutation(cells.n_vars)
    first = fit_pca(cells, labels)
    shuffled = cells[:, order].copy()
    shuffled.X = shuffled.X.toarray()
    second = fit_pca(shuffled, labels)
    assert second.genes == first.genes
    for name, tensor in first.tensors().items():
        np.testing.assert_array_equal(second.tensors()[name], tensor)


def test_augmented_cells_look_like_their_type(small: Reference, cells: AnnData) -> None:
    projection = small.embedder
    assert isinstance(projection, PCAProjection)
    (vectors,) = augmented(projection, cells, seed=3)
    plain = small.embedder.embed(cells, scaling="reference").vectors
    assert not np.allclose(vectors, plain)
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    found = np.array(small.labels.names)[small.probabilities(vectors).argmax(axis=1)]
    assert (found == truth).mean() > 0.9
    np.testing.assert_array_equal(augmented(projection, cells, seed=3)[0], vectors)


def test_log_values_are_not_drawn_again(small: Reference, cells: AnnData) -> None:
    projection = small.embedder
    assert isinstance(projection, PCAProjection)
    logs = cells.copy()
    logs.X = sparse.csr_matrix(np.log1p(1e4 * cells.X.toarray() / cells.X.toarray().sum(axis=1, keepdims=True)))
    assert augmented(projection, logs) == []

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.variable_gene_pca import VariableGenePCA


def test_the_first_component_follows_the_variation_of_most_genes() -> None:
    random = np.random.default_rng(0)
    side = np.repeat([0.0, 1.0], 40)
    values = random.uniform(0.5, 1.0, (80, 60))
    values[:, :30] += 2 * side[:, None]
    cells = AnnData(sparse.csr_matrix(values, dtype=np.float32))
    components = VariableGenePCA.fit(cells, seed=0)
    placed = components.transform(cells)
    assert abs(np.corrcoef(placed[:, 0], side)[0, 1]) > 0.99
    scaled = (values[:, components.genes] - values[:, components.genes].mean(axis=0)) / values[:, components.genes].std(
        axis=0, ddof=1
    )
    np.testing.assert_allclose(placed, scaled @ components.loadings, atol=1e-4)


def test_an_extreme_value_is_clipped() -> None:
    components = VariableGenePCA(np.array([0]), np.zeros(1), np.ones(1), np.ones((1, 1)))
    placed = components.transform(AnnData(sparse.csr_matrix([[100.0], [3.0]])))
    np.testing.assert_array_equal(placed, [[10.0], [3.0]])

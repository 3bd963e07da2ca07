from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.published.scmap import log_counts, select_genes, unit


def test_values_are_logarithms_to_base_two() -> None:
    counts = np.array([[0.0, 1.0, 3.0, 7.0]])
    np.testing.assert_array_equal(log_counts(AnnData(sparse.csr_matrix(counts))).toarray(), [[0, 1, 2, 3]])


def test_genes_above_the_regression_line_are_chosen() -> None:
    random = np.random.default_rng(0)
    values = random.gamma(1.0, 2.0, (60, 20)) * (random.random((60, 20)) < random.uniform(0.2, 0.9, 20))
    values[:, 3] = 0  # no cell has the gene
    values[:, 5] = 1  # all cells have the gene
    # Compute the regression by explicit sums over the genes.
    points = {}
    for gene in range(20):
        lacking = 100 * sum(value == 0 for value in values[:, gene]) / 60
        if 0 < lacking < 100:
            points[gene] = (sum(values[:, gene]) / 60, np.log2(lacking))
    x, y = (sum(pair[at] for pair in points.values()) / len(points) for at in (0, 1))
    slope = sum((a - x) * (b - y) for a, b in points.values()) / sum((a - x) ** 2 for a, _ in points.values())
    residuals = {gene: b - (y + slope * (a - x)) for gene, (a, b) in points.items()}
    expected = sorted(sorted(residuals, key=lambda gene: -residuals[gene])[:6])
    assert select_genes(sparse.csr_matrix(values), 6).tolist() == expected
    everything = select_genes(sparse.csr_matrix(values), 100)
    assert everything.tolist() == [gene for gene in range(20) if gene not in (3, 5)]


def test_an_empty_cell_has_no_direction() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows[0], [0.6, 0.8])
    assert np.isnan(rows[1]).all()

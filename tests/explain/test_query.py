"""Fitted query of an annotation: genes, expression, and the cells of the sample."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.explain.query import FittedQuery


def test_log_expression_has_the_genes_of_the_query(fitted: FittedQuery, query: AnnData) -> None:
    assert fitted.logs is not None
    assert fitted.logs.shape == (len(fitted.rows), len(fitted.genes))
    gene = "INS"
    counts = query[fitted.rows].X
    totals = np.asarray(counts.sum(axis=1)).ravel()
    expected = np.log1p(np.asarray(query[fitted.rows, gene].X.todense()).ravel() / totals * 1e4)
    logs = fitted.logs[:, [fitted.genes.index(gene)]].toarray().ravel()
    np.testing.assert_allclose(logs, expected, rtol=1e-6)


def test_cells_of_the_sample_give_the_output_that_the_model_was_fitted_to(fitted: FittedQuery) -> None:
    output = fitted.engine.run(fitted.cells, fitted.model.scale)
    np.testing.assert_allclose(output.probabilities, fitted.model.smoother.probabilities, atol=1e-4)

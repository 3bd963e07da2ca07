"""The PCA of a query equals a plain principal component analysis."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from spikgpt.embedding import query_pca
from spikgpt.embedding.query_pca import QueryPCA


def test_coordinates_equal_those_of_scikit_learn(logs: sparse.csr_matrix) -> None:
    dense = logs.toarray().astype(np.float64)
    expected = PCA(30, svd_solver="full").fit_transform(dense / (dense.std(axis=0) + query_pca.PCA.spread_floor))

    coordinates = QueryPCA.fit(logs).transform(logs)

    assert np.abs(coordinates) == pytest.approx(np.abs(expected), abs=1e-8)


def test_components_do_not_depend_on_the_chunk(logs: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = QueryPCA.fit(logs).transform(logs)
    monkeypatch.setattr(query_pca, "CHUNK", 7)

    assert np.abs(QueryPCA.fit(logs).transform(logs)) == pytest.approx(np.abs(whole), abs=1e-9)


def test_an_empty_query_has_no_components() -> None:
    none = sparse.csr_matrix((0, 5))
    assert QueryPCA.fit(none).transform(none).shape == (0, 0)

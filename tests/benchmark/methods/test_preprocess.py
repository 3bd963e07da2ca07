from __future__ import annotations

import math

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.preprocess import (
    nearest_votes,
    result_from_probabilities,
    softmax,
    to_counts,
    to_linear,
    to_log_normalised,
)
from spikgpt_benchmark.methods.result import MethodSettings

COUNTS = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 4.0]])


def adata_of(values: np.ndarray) -> AnnData:
    return AnnData(sparse.csr_matrix(values, dtype=np.float32))


@pytest.mark.parametrize("base", [2.0, math.e])
def test_logarithms_of_a_query_are_inverted_in_their_base(base: float) -> None:
    settings = MethodSettings(seed=0, label_key="label", query_values="log", query_log_base=base)
    logs = adata_of(np.log1p(COUNTS) / math.log(base))
    np.testing.assert_allclose(to_linear(logs, settings).toarray(), COUNTS, atol=1e-5)
    np.testing.assert_array_equal(to_linear(adata_of(COUNTS)).toarray(), COUNTS)


def test_values_are_normalised_over_the_shared_genes() -> None:
    expected = np.log1p([[2500, 7500, 0], [0, 0, 0], [2500, 2500, 5000]])
    np.testing.assert_allclose(to_log_normalised(adata_of(COUNTS)).toarray(), expected, rtol=1e-6)


def test_methods_that_need_counts_refuse_log_values() -> None:
    counts = to_counts(adata_of(COUNTS), MethodSettings(seed=0, label_key="label"), "Any")
    np.testing.assert_array_equal(counts.toarray(), COUNTS)
    with pytest.raises(ValueError, match="Any models raw counts, and the query holds log values"):
        to_counts(adata_of(COUNTS), MethodSettings(seed=0, label_key="label", query_values="log"), "Any")


def test_the_nearest_cells_vote() -> None:
    known = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]])
    labels = np.array(["b", "b", "a", "a", "a"])
    shares, classes = nearest_votes(known, labels, np.array([[0.4], [10.4]]), 3)
    np.testing.assert_array_equal(classes, ["a", "b"])
    np.testing.assert_allclose(shares, np.array([[1 / 3, 2 / 3], [1, 0]]))
    result = result_from_probabilities(shares, classes)
    assert result.labels.tolist() == ["b", "a"]
    assert result.probabilities is shares
    assert result.confidence is not None
    np.testing.assert_allclose(result.confidence, [2 / 3, 1])


def test_large_scores_become_probabilities() -> None:
    shares = softmax(np.array([[-5000.0, -5000 + math.log(3)]]))
    np.testing.assert_allclose(shares, np.array([[0.25, 0.75]]))

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.published.scibet import counts_per_million, fit, fit_types, select_genes
from spikgpt_benchmark.methods.result import MethodSettings

LABELS = np.array(["a", "a", "b"])


def test_counts_are_per_million() -> None:
    values = counts_per_million(sparse.csr_matrix([[1.0, 3.0], [0.0, 0.0]]))
    np.testing.assert_allclose(values.toarray(), [[250_000, 750_000], [0, 0]])


def test_genes_with_the_largest_entropy_difference_are_chosen() -> None:
    # The three genes have the means 3, 0 and 1 in type a, and 3, 8 and 5 in type b.
    values = sparse.csr_matrix([[2.0, 0.0, 1.0], [4.0, 0.0, 1.0], [3.0, 8.0, 5.0]])
    differences = [
        2 * math.log((a + b) / 2 + 1) - math.log(a + 1) - math.log(b + 1) for a, b in ((3, 3), (0, 8), (1, 5))
    ]
    assert np.argsort(differences).tolist() == [0, 2, 1]
    assert select_genes(values, LABELS, 1).tolist() == [1]
    assert select_genes(values, LABELS, 2).tolist() == [1, 2]


def test_a_type_is_described_by_its_share_of_each_gene() -> None:
    # The log2(x + 1) of the two genes sum up to 1 + 2 and 0 + 1 in type a, and to 3 and 0 in type b.
    values = sparse.csr_matrix([[1.0, 0.0], [3.0, 1.0], [7.0, 0.0]])
    names, logs = fit_types(values, LABELS)
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(np.exp(logs), [[4 / 6, 2 / 6], [4 / 5, 1 / 5]])


def test_the_likeliest_type_is_the_label() -> None:
    counts = np.array([[3.0, 1.0], [3.0, 1.0], [1.0, 3.0]])
    reference = AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame({"label": LABELS}, index=list("xyz")))
    query = AnnData(sparse.csr_matrix([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    result = fit(reference, MethodSettings(seed=0, label_key="label"))(query)
    assert result.fault(3) is None
    assert result.labels[:2].tolist() == ["a", "b"]
    assert result.probabilities is not None
    # Expected by the formula: the first cell expresses only the first gene, at log2(1e6 + 1).
    logs = {name: [math.log2(1e6 * count / 4 + 1) for count in row] for name, row in (("a", (3, 1)), ("b", (1, 3)))}
    times = {"a": 2, "b": 1}
    score = {
        name: math.log2(1e6 + 1) * (math.log(times[name] * row[0] + 1) - math.log(times[name] * sum(row) + 2))
        for name, row in logs.items()
    }
    np.testing.assert_allclose(result.probabilities[0, 0], 1 / (1 + math.exp(score["b"] - score["a"])))

"""SciBet: genes whose means differ between types, and a multinomial model of each type.

Written from Li et al., Nature Communications 2020, doi:10.1038/s41467-020-15523-2. The published test for cells of
other types needs a null data set that is part of SciBet's package. The test is left out, so every cell has a label.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

from spikgpt.types import Rows, Strings
from spikgpt_benchmark.methods.preprocess import labels_of, result_from_probabilities, softmax, to_linear
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

N_GENES = 1000
MILLION = 1e6


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Fit the multinomial model of each type."""
    known = counts_per_million(to_linear(reference))
    labels = labels_of(reference, settings.label_key)
    genes = select_genes(known, labels)
    names, logs = fit_types(known[:, genes], labels)

    def predict(query: AnnData) -> MethodResult:
        values = _log2(counts_per_million(to_linear(query, settings))[:, genes])
        scores = values @ logs.T  # (n, L)
        top = np.sort(scores, axis=1)
        # The confidence is the score of the best type minus the score of the second best, divided by the cell's sum of
        # log expression. The probabilities are no confidence, because nearly all of them are 0 or 1.
        margin = (top[:, -1] - top[:, -2]) / np.maximum(np.asarray(values.sum(axis=1)).ravel(), 1.0)
        return replace(result_from_probabilities(softmax(scores), names), confidence=margin)

    return predict


def counts_per_million(linear: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts per million, shape (n, G)."""
    totals = np.asarray(linear.sum(axis=1)).ravel()
    factors = np.divide(MILLION, totals, out=np.zeros_like(totals), where=totals > 0)
    return sparse.csr_matrix(sparse.diags(factors) @ linear)


def select_genes(values: sparse.csr_matrix, labels: Strings, n_genes: int = N_GENES) -> Rows:
    """Return the columns of the genes with the largest entropy difference between types, sorted.

    With L types, the entropy difference of a gene is L log(mean of the types' means + 1), minus the sum over types of
    log(mean of the type + 1).
    """
    means = np.stack([np.asarray(values[labels == name].mean(axis=0)).ravel() for name in np.unique(labels)])
    difference = len(means) * np.log(means.mean(axis=0) + 1) - np.log(means + 1).sum(axis=0)
    return np.sort(np.argsort(-difference, kind="stable")[:n_genes])


def fit_types(values: sparse.csr_matrix, labels: Strings) -> tuple[Strings, npt.NDArray[np.float64]]:
    """Return the names of the types, shape (L,), and the log share of each gene in their expression, shape (L, G)."""
    names, logs = np.unique(labels), _log2(values)
    sums = np.stack([np.asarray(logs[labels == name].sum(axis=0)).ravel() for name in names])
    return names, np.log(sums + 1) - np.log(sums.sum(axis=1, keepdims=True) + sums.shape[1])


def _log2(values: sparse.csr_matrix) -> sparse.csr_matrix:
    logs = values.copy()
    logs.data = np.log2(logs.data + 1)
    return logs

"""SciBet: genes whose means differ between types, and a multinomial model of each type.

Written from Li et al., Nature Communications 2020, doi:10.1038/s41467-020-15523-2. The published test for cells of
other types compares with a null data set that its package carries; it is left out, so that every cell has a label.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.preparing import Clock, labels_of, linear_of, softmax
from spikgpt.types import Rows, Strings

N_GENES = 1000
MILLION = 1e6


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by SciBet."""
    clock = Clock()
    known = per_million(linear_of(reference))
    labels = labels_of(reference, settings.label_key)
    genes = chosen_genes(known, labels)
    names, logs = model_of(known[:, genes], labels)
    train_seconds = clock.lap()
    asked = _log2(per_million(linear_of(query, settings))[:, genes])
    scores = asked @ logs.T  # (n, L)
    top = np.sort(scores, axis=1)
    # By how much the best type beats the next, for each unit of expression: the probabilities are nearly all 0 and 1.
    margin = (top[:, -1] - top[:, -2]) / np.maximum(np.asarray(asked.sum(axis=1)).ravel(), 1.0)
    return Answer(
        labels=names[scores.argmax(axis=1)],
        assigned=None,
        confidence=margin,
        probabilities=softmax(scores),
        classes=names,
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
    )


def per_million(linear: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts per million, shape (n, G)."""
    totals = np.asarray(linear.sum(axis=1)).ravel()
    factors = np.divide(MILLION, totals, out=np.zeros_like(totals), where=totals > 0)
    return sparse.csr_matrix(sparse.diags(factors) @ linear)


def chosen_genes(values: sparse.csr_matrix, labels: Strings, n_genes: int = N_GENES) -> Rows:
    """Return the columns of the genes with the largest entropy difference between types, sorted.

    With L types it is L log(mean of the types' means + 1) minus the sum of log(mean of each type + 1).
    """
    means = np.stack([np.asarray(values[labels == name].mean(axis=0)).ravel() for name in np.unique(labels)])
    difference = len(means) * np.log(means.mean(axis=0) + 1) - np.log(means + 1).sum(axis=0)
    return np.sort(np.argsort(-difference, kind="stable")[:n_genes])


def model_of(values: sparse.csr_matrix, labels: Strings) -> tuple[Strings, npt.NDArray[np.float64]]:
    """Return the names of the types, shape (L,), and the log of each gene's share of their expression, shape (L, G)."""
    names, logs = np.unique(labels), _log2(values)
    sums = np.stack([np.asarray(logs[labels == name].sum(axis=0)).ravel() for name in names])
    return names, np.log(sums + 1) - np.log(sums.sum(axis=1, keepdims=True) + sums.shape[1])


def _log2(values: sparse.csr_matrix) -> sparse.csr_matrix:
    logs = values.copy()
    logs.data = np.log2(logs.data + 1)
    return logs

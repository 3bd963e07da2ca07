"""Convert the values of cells for the methods, and turn probabilities or votes into results."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import log_normalise
from spikgpt.cells.content.values import linear_values
from spikgpt.types import Floats, Strings
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings


def labels_of(cells: AnnData, key: str) -> Strings:
    """Return a column of ``obs`` as text, shape (n,)."""
    return np.asarray(cells.obs[key].astype(str), dtype=str)


def batch_names(cells: AnnData, side: str, settings: MethodSettings) -> list[str]:
    """Return the batch of each cell: ``side`` (reference or query), followed by the batch in obs if it has several."""
    if settings.batch_key is None:
        return [side] * cells.n_obs
    return [f"{side} {batch}" for batch in labels_of(cells, settings.batch_key)]


def to_linear(cells: AnnData, settings: MethodSettings | None = None) -> sparse.csr_matrix:
    """Return linear values, shape (n, G), float64: counts, or a query's log values with the logarithm undone.

    ``settings`` describe the values of a query; a reference holds counts.
    """
    logs = settings is not None and settings.query_values == "log"
    return linear_values(sparse.csr_matrix(cells.X), settings.query_log_base if settings and logs else None)


def to_counts(query: AnnData, settings: MethodSettings, method: str) -> sparse.csr_matrix:
    """Return the counts of a query, shape (n, G), for a method that needs counts.

    Raises
    ------
    ValueError
        When the query holds log values.
    """
    if settings.query_values != "counts":
        msg = f"{method} models raw counts, and the query holds log values"
        raise ValueError(msg)
    return sparse.csr_matrix(query.X, dtype=np.float32)


def to_log_normalised(
    cells: AnnData, settings: MethodSettings | None = None, target_sum: float = 1e4
) -> sparse.csr_matrix:
    """Return ln(1 + value * target_sum / total) over the shared genes, shape (n, G), float32."""
    linear = to_linear(cells, settings)
    return log_normalise(linear, np.asarray(linear.sum(axis=1)).ravel(), target_sum)


def with_log_values(cells: AnnData, settings: MethodSettings | None = None) -> AnnData:
    """Return a copy of the cells with log-normalised values."""
    return with_values(cells, to_log_normalised(cells, settings))


def with_values(cells: AnnData, values: sparse.csr_matrix) -> AnnData:
    """Return a copy of the cells with ``values`` in ``X``."""
    return AnnData(values, obs=cells.obs.copy(), var=cells.var[[]].copy())


def result_from_probabilities(probabilities: Floats, classes: Strings) -> MethodResult:
    """Return the result with each cell's most probable label, whose probability is the confidence."""
    best, confidence = classes[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    return MethodResult(labels=best, confidence=confidence, probabilities=probabilities, classes=classes)


def softmax(scores: Floats) -> Floats:
    """Return the softmax of each row of scores, shape (n, L)."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def nearest_votes(known: Floats, labels: Strings, query: Floats, neighbours: int) -> tuple[Floats, Strings]:
    """Return the share of each label among the nearest known cells of each query cell, and the label names.

    ``known`` has the shape (n, D), and ``query`` the shape (m, D). The shares have the shape (m, L). The names have the
    shape (L,), in alphabetical order.
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(neighbours, len(known))).fit(known)
    classes, codes = np.unique(labels, return_inverse=True)
    near = codes[index.kneighbors(query, return_distance=False)]
    return np.stack([(near == label).mean(axis=1) for label in range(len(classes))], axis=1), classes

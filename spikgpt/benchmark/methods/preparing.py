"""What all methods do with cells before their own work, done in one way."""

from __future__ import annotations

import time
from importlib.metadata import version

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.cells.align import log_normalise
from spikgpt.cells.content.values import linear_values
from spikgpt.types import Floats, Strings


def labels_of(cells: AnnData, key: str) -> Strings:
    """Return a column of ``obs`` as text, shape (n,)."""
    return np.asarray(cells.obs[key].astype(str), dtype=str)


def linear_of(cells: AnnData, settings: Settings | None = None) -> sparse.csr_matrix:
    """Return counts as they are, or a query's log values undone as ``settings`` says, shape (n, G), float64."""
    logs = settings is not None and settings.query_values == "log"
    return linear_values(sparse.csr_matrix(cells.X), settings.query_log_base if settings and logs else None)


def counts_of(query: AnnData, settings: Settings, method: str) -> sparse.csr_matrix:
    """Return the counts of a query, shape (n, G), for a method that works with nothing else.

    Raises
    ------
    ValueError
        When the query holds log values.
    """
    if settings.query_values != "counts":
        msg = f"{method} models raw counts, and the query holds log values"
        raise ValueError(msg)
    return sparse.csr_matrix(query.X, dtype=np.float32)


def log_normalised(cells: AnnData, settings: Settings | None = None, target_sum: float = 1e4) -> sparse.csr_matrix:
    """Return ln(1 + value * target_sum / total) over the genes that are there, shape (n, G), float32.

    ``settings`` say what a query holds; a reference holds counts.
    """
    linear = linear_of(cells, settings)
    return log_normalise(linear, np.asarray(linear.sum(axis=1)).ravel(), target_sum)


def with_values(cells: AnnData, values: sparse.csr_matrix) -> AnnData:
    """Return cells that hold other values, with copies of what is known of cells and genes."""
    return AnnData(values, obs=cells.obs.copy(), var=cells.var[[]].copy())


def best_of(probabilities: Floats, classes: Strings) -> tuple[Strings, Floats]:
    """Return the label of the largest value in each row of (n, L), shape (n,), and that value, shape (n,)."""
    return classes[probabilities.argmax(axis=1)], probabilities.max(axis=1)


def likeliest(probabilities: Floats, classes: Strings) -> Answer:
    """Return the answer that gives each cell the label of its largest probability, which says how sure that is."""
    best, confidence = best_of(probabilities, classes)
    return Answer(labels=best, confidence=confidence, probabilities=probabilities, classes=classes)


def softmax(scores: Floats) -> Floats:
    """Return what is proportional to the exponential of scores, (n, L), and sums up to 1 in each row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def nearest_votes(known: Floats, labels: Strings, asked: Floats, neighbours: int) -> tuple[Floats, Strings]:
    """Return which share of the nearest known cells, (n, D), each label has around each of m cells, (m, D).

    Shares, shape (m, L), and the labels in alphabetical order, shape (L,).
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(neighbours, len(known))).fit(known)
    classes, codes = np.unique(labels, return_inverse=True)
    near = codes[index.kneighbors(asked, return_distance=False)]
    return np.stack([(near == label).mean(axis=1) for label in range(len(classes))], axis=1), classes


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {package: version(package) for package in packages}


class Clock:
    """Measures how long the steps of a method take."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last call, or since the clock was made."""
        now = time.perf_counter()
        seconds, self._start = now - self._start, now
        return seconds

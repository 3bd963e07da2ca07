"""scmap-cluster: the type with the most similar median expression, if two of three similarity measures agree.

Written from Kiselev, Yiu and Hemberg, Nature Methods 2018, doi:10.1038/nmeth.4644. If no two measures agree, the
published method gives no label. Here the cell is unassigned, and the best label is the most similar type by cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy.stats import rankdata

from spikgpt.types import Bools, Strings
from spikgpt_benchmark.methods.preprocess import labels_of
from spikgpt_benchmark.methods.published.scmap import log_counts, select_genes, unit
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

# Below this similarity a cell is unassigned.
LEAST_SIMILARITY = 0.7


@dataclass(frozen=True)
class ClusterVotes:
    """Votes of the three measures on n cells: index of the best type, similarity to it, and the assigned cells."""

    best: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]
    assigned: Bools


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Fit the median expression of each type."""
    logs = log_counts(reference)
    genes = select_genes(logs)
    names, centres = medians(logs[:, genes].toarray(), labels_of(reference, settings.label_key))

    def predict(query: AnnData) -> MethodResult:
        votes = compare(log_counts(query, settings)[:, genes].toarray(), centres)
        return MethodResult(labels=names[votes.best], assigned=votes.assigned, confidence=votes.similarity)

    return predict


def medians(values: npt.NDArray[np.float64], labels: Strings) -> tuple[Strings, npt.NDArray[np.float64]]:
    """Return the names of the types, shape (L,), and their median values, shape (L, G)."""
    names = np.unique(labels)
    return names, np.stack([np.median(values[labels == name], axis=0) for name in names])


def compare(values: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]) -> ClusterVotes:
    """Compare cells, shape (n, G), with the medians of types, shape (L, G)."""
    similarities = [_cosine(values, centres), _pearson(values, centres)]
    similarities.append(_pearson(rankdata(values, axis=1), rankdata(centres, axis=1)))
    undefined = np.any([np.isnan(each).any(axis=1) for each in similarities], axis=0)
    stacked = np.nan_to_num(np.stack(similarities), nan=-1.0)  # (3, n, L)
    chosen, reached = stacked.argmax(axis=2), stacked.max(axis=2)  # (3, n)
    agreeing = (chosen[:, None] == chosen[None]).sum(axis=1)  # (3, n): number of measures with this choice
    most = agreeing.argmax(axis=0)
    best = np.where(agreeing.max(axis=0) >= 2, np.take_along_axis(chosen, most[None], axis=0)[0], chosen[0])
    agreed = np.where(agreeing.max(axis=0) >= 2, np.where(agreeing >= 2, reached, -1.0).max(axis=0), 0.0)
    similarity = np.where(undefined, 0.0, agreed)
    return ClusterVotes(best, similarity, similarity >= LEAST_SIMILARITY)


def _cosine(values: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cosines of n cells and L types, shape (n, L); NaN if the cell or the type is all 0."""
    cosines: npt.NDArray[np.float64] = unit(values) @ unit(centres).T
    return cosines


def _pearson(values: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the correlations of n cells and L types, shape (n, L); NaN if the cell or the type is constant."""
    centred = [rows - rows.mean(axis=1, keepdims=True) for rows in (values, centres)]
    return _cosine(*centred)

"""SingleR by its Python package, with the pruning of the package in R."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.types import Bools, Strings
from spikgpt_benchmark.methods.preprocess import labels_of, to_linear, to_log_normalised
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

IMPORTS, VERSIONS = ("singler",), ("singler",)
# A cell is pruned if its excess is this many median absolute deviations below the median of its label.
MOST_DEVIATIONS = 3.0
# Standard deviation of a normal distribution, divided by its median absolute deviation.
NORMAL = 1.4826


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Train SingleR on a reference."""
    import singler

    genes = reference.var_names.to_list()
    trained = singler.train_single(
        to_log_normalised(reference).T.tocsc().astype(np.float64),
        labels_of(reference, settings.label_key).tolist(),
        genes,
        test_features=genes,
        num_threads=settings.threads,
    )

    def predict(query: AnnData) -> MethodResult:
        # SingleR uses only the ranks of the genes in each query cell, so no logarithm is needed.
        values = to_linear(query, settings).T.tocsc()
        result = singler.classify_single(values, trained, num_threads=settings.threads)
        scores = result.column("scores")
        classes = np.array(list(scores.column_names), dtype=str)
        table = np.stack([np.asarray(scores.column(name)) for name in scores.column_names], axis=1)
        labels = np.array(result.column("best"), dtype=str)
        confidence = np.asarray(result.column("delta"), dtype=np.float64)
        return MethodResult(labels=labels, assigned=prune(table, labels, classes), confidence=confidence)

    return predict


def prune(scores: npt.NDArray[np.float64], labels: Strings, classes: Strings) -> Bools:
    """Return the cells that keep their label, shape (n,), by the default pruning of the package in R.

    The excess of a cell is the score of its label minus the median of its scores. The excess is compared with the
    excesses of all cells of the same label.

    Parameters
    ----------
    scores
        Scores before fine-tuning, shape (n, L).
    labels, classes
        Label of each cell, shape (n,), and the label of each column of the scores, shape (L,).
    """
    column = {name: number for number, name in enumerate(classes)}
    own = scores[np.arange(len(labels)), [column[name] for name in labels]]
    excess = own - np.median(scores, axis=1)
    keep = np.ones(len(labels), dtype=bool)
    for name in np.unique(labels):
        cells = labels == name
        middle = np.median(excess[cells])
        spread = NORMAL * np.median(np.abs(excess[cells] - middle))
        keep[cells] = excess[cells] >= middle - MOST_DEVIATIONS * spread
    return keep

"""CellTypist, trained with its defaults; cells are rejected as in its mode ``prob match``."""

from __future__ import annotations

import warnings

import numpy as np
from anndata import AnnData

from spikgpt_benchmark.methods.preprocess import labels_of, with_log_values
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

IMPORTS, VERSIONS = ("celltypist",), ("celltypist", "scikit-learn")
# The package's p_thres: a cell keeps a label only if a probability reaches this value.
LEAST_PROBABILITY = 0.5


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Train CellTypist."""
    warnings.simplefilter("ignore")
    import celltypist

    celltypist.logger.set_level(40)
    known = with_log_values(reference)
    np.random.seed(settings.seed)  # noqa: NPY002 - the package draws from this generator
    model = celltypist.train(known, labels=labels_of(reference, settings.label_key), n_jobs=settings.threads)

    def predict(query: AnnData) -> MethodResult:
        prediction = celltypist.annotate(with_log_values(query, settings), model=model)
        probabilities = prediction.probability_matrix
        highest = probabilities.to_numpy().max(axis=1)
        return MethodResult(
            labels=prediction.predicted_labels["predicted_labels"].to_numpy().astype(str),
            assigned=highest > LEAST_PROBABILITY,
            confidence=highest,
            probabilities=probabilities.to_numpy(),
            classes=probabilities.columns.to_numpy().astype(str),
        )

    return predict

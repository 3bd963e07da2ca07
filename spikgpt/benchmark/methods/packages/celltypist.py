"""CellTypist, trained with its defaults; it rejects as its mode ``prob match`` does."""

from __future__ import annotations

import warnings

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.preparing import Clock, labels_of, log_normalised, versions_of, with_values

# The package's p_thres: a cell keeps a label only where the probability of one reaches it.
LEAST_PROBABILITY = 0.5


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by CellTypist."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import celltypist

        celltypist.logger.set_level(40)
        clock = Clock()
        known = with_values(reference, log_normalised(reference))
        np.random.seed(settings.seed)  # noqa: NPY002 - what the package draws from
        model = celltypist.train(known, labels=labels_of(reference, settings.label_key), n_jobs=settings.threads)
        train_seconds = clock.lap()
        asked = with_values(query, log_normalised(query, settings))
        found = celltypist.annotate(asked, model=model)
    probabilities = found.probability_matrix
    highest = probabilities.to_numpy().max(axis=1)
    return Answer(
        labels=found.predicted_labels["predicted_labels"].to_numpy().astype(str),
        assigned=highest > LEAST_PROBABILITY,
        confidence=highest,
        probabilities=probabilities.to_numpy(),
        classes=probabilities.columns.to_numpy().astype(str),
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("celltypist", "scikit-learn"),
    )

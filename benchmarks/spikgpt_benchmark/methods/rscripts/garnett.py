"""Garnett by its R package, with the marker file ``options["markers"]``."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt_benchmark.methods.preprocess import labels_of
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict
from spikgpt_benchmark.methods.rscripts.run_script import run_script

NO_LABEL = "Unknown"


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Return a function that labels a query by Garnett; the marker file has to name types as the reference does.

    Garnett reads no labels of the reference. Cells without a label, or with a type that the reference lacks, are
    unassigned; their best label is the most probable type that the file and the reference share.
    """

    def predict(query: AnnData) -> MethodResult:
        arguments = str(settings.seed), settings.options["markers"]
        cells, fields = run_script("garnett.R", reference, query, settings, *arguments)
        labels = cells["label"].fillna(NO_LABEL).to_numpy().astype(str)
        assigned = np.isin(labels, labels_of(reference, settings.label_key))
        return MethodResult(np.where(assigned, labels, cells["best"].to_numpy().astype(str)), assigned, **fields)

    return predict

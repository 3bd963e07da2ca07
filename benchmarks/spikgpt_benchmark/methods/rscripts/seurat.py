"""Seurat's label transfer by canonical correlation, in R."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict
from spikgpt_benchmark.methods.rscripts.run_script import run_script

SCORE = "score:"


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Return a function that labels a query by Seurat."""

    def predict(query: AnnData) -> MethodResult:
        cells, fields = run_script("seurat_cca.R", reference, query, settings, str(settings.seed))
        scores = cells.filter(regex=f"^{SCORE}")
        return MethodResult(
            labels=cells["label"].to_numpy().astype(str),
            confidence=cells["score"].to_numpy(dtype=np.float64),
            probabilities=scores.to_numpy(dtype=np.float64),
            classes=np.array([name.removeprefix(SCORE) for name in map(str, scores)]),
            **fields,
        )

    return predict

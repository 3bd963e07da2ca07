"""SingleR by its R package, with the pruning of the package."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict
from spikgpt_benchmark.methods.rscripts.run_script import run_script


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Return a function that labels a query by SingleR in R."""

    def predict(query: AnnData) -> MethodResult:
        cells, fields = run_script("singler.R", reference, query, settings)
        return MethodResult(
            labels=cells["label"].to_numpy().astype(str),
            assigned=cells["kept"].to_numpy(dtype=bool),
            confidence=cells["delta"].to_numpy(dtype=np.float64),
            **fields,
        )

    return predict

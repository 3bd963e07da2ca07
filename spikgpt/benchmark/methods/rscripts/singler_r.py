"""SingleR by its package in R, with its own pruning."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.rscripts.running import run_script


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by SingleR in R."""
    said = run_script("singler.R", reference, query, settings)
    return Answer(
        labels=said.cells["label"].to_numpy().astype(str),
        assigned=said.cells["kept"].to_numpy(dtype=bool),
        confidence=said.cells["delta"].to_numpy(dtype=np.float64),
        train_seconds=said.train_seconds,
        predict_seconds=said.predict_seconds,
        versions=said.versions,
    )

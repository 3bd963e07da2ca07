"""Seurat's label transfer by canonical correlation, in R."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.rscripts.running import run_script

SCORE = "score:"


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by Seurat."""
    said = run_script("seurat_cca.R", reference, query, settings, str(settings.seed))
    columns = [name for name in said.cells.columns if name.startswith(SCORE)]
    return Answer(
        labels=said.cells["label"].to_numpy().astype(str),
        confidence=said.cells["score"].to_numpy(dtype=np.float64),
        probabilities=said.cells[columns].to_numpy(dtype=np.float64),
        classes=np.array([name.removeprefix(SCORE) for name in columns]),
        train_seconds=said.train_seconds,
        predict_seconds=said.predict_seconds,
        versions=said.versions,
    )

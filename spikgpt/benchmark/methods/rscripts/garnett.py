"""Garnett by its package in R, from the marker file ``options["markers"]``."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.preparing import labels_of
from spikgpt.benchmark.methods.rscripts.running import run_script

NO_LABEL = "Unknown"


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by Garnett, whose marker file has to call types as the reference does.

    It reads no labels of the reference. Cells that it gives none, or a type of its file that the reference lacks, are
    unassigned; their best label is the most probable of those that both have.
    """
    said = run_script("garnett.R", reference, query, settings, str(settings.seed), settings.options["markers"])
    found = said.cells["label"].fillna(NO_LABEL).to_numpy().astype(str)
    assigned = np.isin(found, labels_of(reference, settings.label_key))
    return Answer(
        labels=np.where(assigned, found, said.cells["best"].to_numpy().astype(str)),
        assigned=assigned,
        train_seconds=said.train_seconds,
        predict_seconds=said.predict_seconds,
        versions=said.versions,
    )

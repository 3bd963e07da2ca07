"""Harmony by its Python package: reference and query are aligned together, and the nearest cells vote."""

from __future__ import annotations

import logging
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.components import Components
from spikgpt.benchmark.methods.preparing import (
    Clock,
    labels_of,
    likeliest,
    log_normalised,
    nearest_votes,
    versions_of,
    with_values,
)

NEIGHBOURS = 15
BATCH = "batch"


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by the nearest cells of the reference after Harmony."""
    import harmonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    clock = Clock()
    both = anndata.concat(
        [
            with_values(reference, log_normalised(reference)),
            with_values(query, log_normalised(query, settings)),
        ]
    )
    placed = Components.fit(both, settings.seed).place(both)
    harmony = harmonypy.run_harmony(
        placed,
        pd.DataFrame({BATCH: np.concatenate([_batches(reference, "r", settings), _batches(query, "q", settings)])}),
        BATCH,
        random_state=settings.seed,
        ncores=settings.threads,
        verbose=False,
    )
    aligned = np.asarray(harmony.Z_corr)
    aligned = aligned if len(aligned) == both.n_obs else aligned.T
    # There is no model to keep: all that comes before the vote is done again for each query.
    train_seconds = clock.lap()
    known, asked = aligned[: reference.n_obs], aligned[reference.n_obs :]
    shares, classes = nearest_votes(known, labels_of(reference, settings.label_key), asked, NEIGHBOURS)
    return replace(
        likeliest(shares, classes),
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("harmonypy", "scanpy"),
    )


def _batches(cells: AnnData, side: str, settings: Settings) -> list[str]:
    """Return the batch of each cell: the study, and within it what the batch key tells."""
    if settings.batch_key is None:
        return [side] * cells.n_obs
    return [f"{side} {batch}" for batch in labels_of(cells, settings.batch_key)]

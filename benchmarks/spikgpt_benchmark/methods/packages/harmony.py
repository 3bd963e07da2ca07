"""Harmony by its Python package: reference and query are aligned, and the nearest reference cells vote.

Harmony has no model of the reference, so all of its time counts as prediction.
"""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt_benchmark.methods.preprocess import (
    batch_names,
    labels_of,
    nearest_votes,
    result_from_probabilities,
    with_log_values,
)
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict
from spikgpt_benchmark.methods.variable_gene_pca import VariableGenePCA

IMPORTS, VERSIONS = ("harmonypy", "scanpy"), ("harmonypy", "scanpy")
NEIGHBOURS = 15
BATCH = "batch"


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Return a function that aligns a query with the reference by Harmony."""
    import harmonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)

    def predict(query: AnnData) -> MethodResult:
        both = anndata.concat([with_log_values(reference), with_log_values(query, settings)])
        points = VariableGenePCA.fit(both, settings.seed).transform(both)
        batches = [*batch_names(reference, "r", settings), *batch_names(query, "q", settings)]
        harmony = harmonypy.run_harmony(
            points,
            pd.DataFrame({BATCH: batches}),
            BATCH,
            random_state=settings.seed,
            ncores=settings.threads,
            verbose=False,
        )
        aligned = np.asarray(harmony.Z_corr)
        aligned = aligned if len(aligned) == both.n_obs else aligned.T
        known, cells = aligned[: reference.n_obs], aligned[reference.n_obs :]
        labels = labels_of(reference, settings.label_key)
        return result_from_probabilities(*nearest_votes(known, labels, cells, NEIGHBOURS))

    return predict

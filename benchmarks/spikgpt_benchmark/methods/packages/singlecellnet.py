"""SingleCellNet by its Python package; cells labelled ``rand``, its class of shuffled cells, are rejected."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt_benchmark.methods.preprocess import labels_of, result_from_probabilities, with_log_values
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

IMPORTS, VERSIONS = ("pySingleCellNet", "scanpy"), ("pysinglecellnet", "scikit-learn")
RANDOM = "rand"
N_GENES = 2000
LABEL = "label"


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Train SingleCellNet on the variable genes of a reference."""
    warnings.simplefilter("ignore")
    import pySingleCellNet
    import scanpy

    known = with_log_values(reference)
    known.obs[LABEL] = pd.Categorical(labels_of(reference, settings.label_key))
    scanpy.pp.highly_variable_genes(known, n_top_genes=min(N_GENES, known.n_vars))
    # The package joins two gene names by an underscore and splits there again, so no name may have an underscore.
    known.var_names = [f"gene{number}" for number in range(known.n_vars)]
    np.random.seed(settings.seed)  # noqa: NPY002 - the package draws from this generator
    trained = pySingleCellNet.tl.train_classifier(known, groupby=LABEL)

    def predict(query: AnnData) -> MethodResult:
        cells = with_log_values(query, settings)
        cells.var_names = known.var_names
        pySingleCellNet.tl.classify_anndata(cells, trained, nrand=0)
        table = cells.obsm["SCN_score"]
        names, scores = table.columns.to_numpy().astype(str), table.to_numpy().astype(np.float64)
        own = names != RANDOM
        result = result_from_probabilities(scores[:, own], names[own])
        return replace(result, assigned=names[scores.argmax(axis=1)] != RANDOM)

    return predict

"""SingleCellNet by its Python package; cells that look like shuffled ones, its class ``rand``, have no label."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.preparing import Clock, labels_of, likeliest, log_normalised, versions_of, with_values

RANDOM = "rand"
N_GENES = 2000
LABEL = "label"


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by SingleCellNet."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import pySingleCellNet
        import scanpy

        clock = Clock()
        known = with_values(reference, log_normalised(reference))
        known.obs[LABEL] = pd.Categorical(labels_of(reference, settings.label_key))
        scanpy.pp.highly_variable_genes(known, n_top_genes=min(N_GENES, known.n_vars))
        asked = with_values(query, log_normalised(query, settings))
        # It writes a pair of genes as one name, and takes it apart again at the underscore.
        known.var_names = asked.var_names = [f"gene{at}" for at in range(known.n_vars)]
        np.random.seed(settings.seed)  # noqa: NPY002 - what the package draws from
        trained = pySingleCellNet.tl.train_classifier(known, groupby=LABEL)
        train_seconds = clock.lap()
        pySingleCellNet.tl.classify_anndata(asked, trained, nrand=0)
    table = asked.obsm["SCN_score"]
    names = table.columns.to_numpy().astype(str)
    all_of = table.to_numpy().astype(np.float64)
    own = names != RANDOM
    return replace(
        likeliest(all_of[:, own], names[own]),
        assigned=names[all_of.argmax(axis=1)] != RANDOM,
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("pysinglecellnet", "scikit-learn"),
    )

"""scANVI by scvi-tools: scVI first, then scANVI on it, then the query in a few more epochs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.preparing import Clock, counts_of, labels_of, likeliest, versions_of, with_values

N_GENES = 2000
# Epochs of scVI, of scANVI, and of the query.
EPOCHS = 100, 20, 100
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
UNLABELLED, LABEL, BATCH = "unlabelled", "label", "batch"


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by scANVI."""
    counts = counts_of(query, settings, "scANVI")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import scanpy
        import scvi
        import torch

        scvi.settings.seed = settings.seed
        scvi.settings.verbosity = logging.ERROR
        scvi.settings.dl_num_workers = 0
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        torch.set_num_threads(settings.threads)
        clock = Clock()
        cells = _prepared(reference, sparse.csr_matrix(reference.X, dtype=np.float32), "reference", settings)
        cells.obs[LABEL] = pd.Categorical(labels_of(reference, settings.label_key))
        normal = cells.copy()
        scanpy.pp.normalize_total(normal, target_sum=1e4)
        scanpy.pp.log1p(normal)
        scanpy.pp.highly_variable_genes(normal, n_top_genes=min(N_GENES, normal.n_vars))
        genes = normal.var["highly_variable"].to_numpy()
        cells = cells[:, genes].copy()
        model = _trained(scvi, cells)
        train_seconds = clock.lap()
        asked = _prepared(query, counts, "query", settings)[:, genes].copy()
        asked.obs[LABEL] = UNLABELLED
        mapped = scvi.model.SCANVI.load_query_data(asked, model)
        mapped.train(max_epochs=EPOCHS[2], plan_kwargs={"weight_decay": 0.0}, **QUIET)
        table = mapped.predict(soft=True)
    table = table.drop(columns=UNLABELLED, errors="ignore")
    classes = table.columns.to_numpy().astype(str)
    probabilities = table.to_numpy(dtype=np.float64)
    return replace(
        likeliest(probabilities, classes),
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("scvi-tools", "torch"),
    )


def _prepared(cells: AnnData, counts: Any, side: str, settings: Settings) -> AnnData:
    """Return counts with the batch of each cell."""
    prepared = with_values(cells, counts)
    batches = [side] * cells.n_obs
    if settings.batch_key is not None:
        batches = [f"{side} {batch}" for batch in labels_of(cells, settings.batch_key)]
    prepared.obs = pd.DataFrame({BATCH: pd.Categorical(batches)}, index=cells.obs_names)
    return prepared


def _trained(scvi: Any, cells: AnnData) -> Any:
    """Return scANVI trained on a reference, with the settings that its guide to mapping names."""
    scvi.model.SCVI.setup_anndata(cells, batch_key=BATCH, labels_key=LABEL)
    base = scvi.model.SCVI(
        cells, use_layer_norm="both", use_batch_norm="none", encode_covariates=True, dropout_rate=0.2, n_layers=2
    )
    base.train(max_epochs=EPOCHS[0], **QUIET)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELLED)
    model.train(max_epochs=EPOCHS[1], n_samples_per_label=100, **QUIET)
    return model

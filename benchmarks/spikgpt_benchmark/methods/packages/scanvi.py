"""scANVI by scvi-tools: train scVI on the reference, scANVI from the network of scVI, then map the query."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.preprocess import (
    batch_names,
    labels_of,
    result_from_probabilities,
    to_counts,
    with_values,
)
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

IMPORTS, VERSIONS = ("scanpy", "scvi", "torch"), ("scvi-tools", "torch")
N_GENES = 2000
# Epochs of the training of scVI, of scANVI, and of the mapping of the query.
EPOCHS = 100, 20, 100
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
UNLABELLED, LABEL, BATCH = "unlabelled", "label", "batch"


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Train scVI and scANVI on the variable genes of a reference."""
    warnings.simplefilter("ignore")
    import scanpy
    import scvi
    import torch

    scvi.settings.seed = settings.seed
    scvi.settings.verbosity = logging.ERROR
    scvi.settings.dl_num_workers = 0
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(settings.threads)
    cells = _with_batches(reference, sparse.csr_matrix(reference.X, dtype=np.float32), "reference", settings)
    cells.obs[LABEL] = pd.Categorical(labels_of(reference, settings.label_key))
    normal = cells.copy()
    scanpy.pp.normalize_total(normal, target_sum=1e4)
    scanpy.pp.log1p(normal)
    scanpy.pp.highly_variable_genes(normal, n_top_genes=min(N_GENES, normal.n_vars))
    genes = normal.var["highly_variable"].to_numpy()
    model = _train(scvi, cells[:, genes].copy())

    def predict(query: AnnData) -> MethodResult:
        counts = to_counts(query, settings, "scANVI")
        unlabelled = _with_batches(query, counts, "query", settings)[:, genes].copy()
        unlabelled.obs[LABEL] = UNLABELLED
        mapped = scvi.model.SCANVI.load_query_data(unlabelled, model)
        mapped.train(max_epochs=EPOCHS[2], plan_kwargs={"weight_decay": 0.0}, **QUIET)
        table = mapped.predict(soft=True).drop(columns=UNLABELLED, errors="ignore")
        return result_from_probabilities(table.to_numpy(dtype=np.float64), table.columns.to_numpy().astype(str))

    return predict


def _with_batches(cells: AnnData, counts: Any, side: str, settings: MethodSettings) -> AnnData:
    """Return cells with ``counts`` in ``X``, and the batch of each cell; ``side`` is reference or query."""
    prepared = with_values(cells, counts)
    batches = pd.Categorical(batch_names(cells, side, settings))
    prepared.obs = pd.DataFrame({BATCH: batches}, index=cells.obs_names)
    return prepared


def _train(scvi: Any, cells: AnnData) -> Any:
    """Return scANVI trained on a reference, with the settings of scvi-tools' guide to mapping queries."""
    scvi.model.SCVI.setup_anndata(cells, batch_key=BATCH, labels_key=LABEL)
    base = scvi.model.SCVI(
        cells, use_layer_norm="both", use_batch_norm="none", encode_covariates=True, dropout_rate=0.2, n_layers=2
    )
    base.train(max_epochs=EPOCHS[0], **QUIET)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNLABELLED)
    model.train(max_epochs=EPOCHS[1], n_samples_per_label=100, **QUIET)
    return model

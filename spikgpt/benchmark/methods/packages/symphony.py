"""Symphony by its Python package: a query is mapped onto a compressed reference, and the nearest cells vote."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import numpy as np
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
from spikgpt.types import Floats

# The package's own default, that of scikit-learn.
NEIGHBOURS = 5
# Where it keeps the reference's cells, and those of a query once mapped.
PLACED, ALIGNED, BATCH, DISTANCE = "X_pca", "X_pca_harmony", "batch", "distance"


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by Symphony."""
    clock = Clock()
    known = compressed(reference, settings)
    train_seconds = clock.lap()
    asked, distance = mapped(known, query, settings)
    shares, classes = nearest_votes(known.obsm[ALIGNED], labels_of(reference, settings.label_key), asked, NEIGHBOURS)
    return replace(
        likeliest(shares, classes),
        confidence=-distance,
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("symphonypy", "harmonypy", "scanpy"),
    )


def compressed(reference: AnnData, settings: Settings) -> AnnData:
    """Return a reference as the package maps onto it: aligned by Harmony.

    Cells without batches are given as one batch, which Harmony leaves where they are: without any, version 0.2.4 of the
    package corrects a query by the centres of clusters where the sums of their cells belong, and misplaces it.
    """
    import symphonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    known = with_values(reference, log_normalised(reference))
    components = Components.fit(known, settings.seed)
    chosen = np.zeros(known.n_vars, dtype=bool)
    chosen[components.genes] = True
    known.var["highly_variable"] = chosen
    for name, values in (("mean", components.mean), ("std", components.std)):
        known.var[name] = 0.0
        known.var.loc[chosen, name] = values
    known.varm["PCs"] = np.zeros((known.n_vars, components.loadings.shape[1]))
    known.varm["PCs"][chosen] = components.loadings
    known.obsm[PLACED] = components.place(known)
    known.uns["log1p"] = {}
    known.obs[BATCH] = "one" if settings.batch_key is None else labels_of(known, settings.batch_key)
    symphonypy.pp.harmony_integrate(known, BATCH, random_seed=settings.seed)
    return known


def mapped(known: AnnData, query: AnnData, settings: Settings) -> tuple[Floats, Floats]:
    """Return a query's cells beside those of a reference, shape (n, D), and how far each is from it, shape (n,)."""
    import symphonypy

    cells = with_values(query, log_normalised(query, settings))
    cells.uns["log1p"] = {}
    cells.obs[BATCH] = "one" if settings.batch_key is None else labels_of(cells, settings.batch_key)
    np.random.seed(settings.seed)  # noqa: NPY002 - what its k-means draws from
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        symphonypy.tl.map_embedding(cells, known, key=BATCH)
        symphonypy.tl.per_cell_confidence(cells, known, obs=DISTANCE)
    distance = cells.obs[DISTANCE].to_numpy(dtype=np.float64)
    # Where cells lie in fewer dimensions than there are components, some distances are of no number.
    finite = np.isfinite(distance)
    distance = np.where(finite, distance, distance[finite].max(initial=0.0))
    return np.asarray(cells.obsm[ALIGNED]), distance

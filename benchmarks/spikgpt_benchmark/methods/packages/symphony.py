"""Symphony by its Python package: a query is mapped onto a compressed reference, and the nearest cells vote."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import numpy as np
from anndata import AnnData

from spikgpt.types import Floats
from spikgpt_benchmark.methods.preprocess import labels_of, nearest_votes, result_from_probabilities, with_log_values
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict
from spikgpt_benchmark.methods.variable_gene_pca import VariableGenePCA

IMPORTS, VERSIONS = ("symphonypy", "scanpy"), ("symphonypy", "harmonypy", "scanpy")
# Number of nearest neighbours: the default of the package, which is the default of scikit-learn.
NEIGHBOURS = 5
# Keys in obsm and obs of the package: principal components, aligned components, batches and distances.
COMPONENTS, ALIGNED, BATCH, DISTANCE = "X_pca", "X_pca_harmony", "batch", "distance"


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Compress a reference by Symphony."""
    known = compress(reference, settings)

    def predict(query: AnnData) -> MethodResult:
        points, distance = map_query(known, query, settings)
        labels = labels_of(reference, settings.label_key)
        votes = nearest_votes(known.obsm[ALIGNED], labels, points, NEIGHBOURS)
        return replace(result_from_probabilities(*votes), confidence=-distance)

    return predict


def compress(reference: AnnData, settings: MethodSettings) -> AnnData:
    """Return a reference in the form that the package maps a query onto, aligned by Harmony.

    Cells without batches become one batch, which Harmony leaves unchanged. Without a batch, version 0.2.4 of the
    package misplaces a query. The package then corrects the query by cluster centres, instead of by the sums of the
    cells of each cluster.
    """
    import symphonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    known = with_log_values(reference)
    pca = VariableGenePCA.fit(known, settings.seed)
    chosen = np.zeros(known.n_vars, dtype=bool)
    chosen[pca.genes] = True
    known.var["highly_variable"] = chosen
    for name, values in (("mean", pca.mean), ("std", pca.std)):
        known.var[name] = 0.0
        known.var.loc[chosen, name] = values
    known.varm["PCs"] = np.zeros((known.n_vars, pca.loadings.shape[1]))
    known.varm["PCs"][chosen] = pca.loadings
    known.obsm[COMPONENTS] = pca.transform(known)
    _add_batches(known, settings)
    symphonypy.pp.harmony_integrate(known, BATCH, random_seed=settings.seed)
    return known


def map_query(known: AnnData, query: AnnData, settings: MethodSettings) -> tuple[Floats, Floats]:
    """Map a query onto a reference; return coordinates, shape (n, D), and distances from the reference, shape (n,)."""
    import symphonypy

    cells = with_log_values(query, settings)
    _add_batches(cells, settings)
    np.random.seed(settings.seed)  # noqa: NPY002 - the package's k-means draws from this generator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        symphonypy.tl.map_embedding(cells, known, key=BATCH)
        symphonypy.tl.per_cell_confidence(cells, known, obs=DISTANCE)
    distance = cells.obs[DISTANCE].to_numpy(dtype=np.float64)
    # A distance is NaN if cells span fewer dimensions than there are components; use the largest other distance.
    finite = np.isfinite(distance)
    distance = np.where(finite, distance, distance[finite].max(initial=0.0))
    return np.asarray(cells.obsm[ALIGNED]), distance


def _add_batches(cells: AnnData, settings: MethodSettings) -> None:
    """Add the batch of each cell to obs, and the entry ``log1p`` that the package expects to uns."""
    cells.uns["log1p"] = {}
    cells.obs[BATCH] = "one" if settings.batch_key is None else labels_of(cells, settings.batch_key)

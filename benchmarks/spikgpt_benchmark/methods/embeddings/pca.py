"""Label cells by a plain classifier, ``options["classifier"]``, on the principal components of SpikGPT.

The query is scaled as in SpikGPT. The confidence of the plain classifier selects the scaling.
"""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.embedding.pca import PCAProjection
from spikgpt.types import Floats, NetworkOutput, Scale
from spikgpt_benchmark.methods.embeddings.classifiers import CLASSIFIERS
from spikgpt_benchmark.methods.preprocess import labels_of, result_from_probabilities
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

VERSIONS = ("spikgpt", "scikit-learn")


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Fit SpikGPT's principal components and a plain classifier on them."""
    from spikgpt.training.cells import read_every_gene
    from spikgpt.training.pca import fit_pca

    labels = labels_of(reference, settings.label_key)
    cells, genes, _ = read_every_gene(reference, None)
    projection = fit_pca(cells, genes, labels, seed=settings.seed)
    train = CLASSIFIERS[settings.options["classifier"]]
    classify = train(projection.vectors(_read(projection, reference)), labels, settings.seed)

    def run(cells: AlignedCells, scale: Scale | None) -> NetworkOutput:
        vectors = projection.vectors(cells, scale)
        probabilities = classify(vectors)
        # SpikGPT selects the scaling by energies. A plain classifier has none, so log probabilities replace them.
        return NetworkOutput.from_arrays(vectors, probabilities, np.log(probabilities.max(axis=1)))

    def predict(query: AnnData) -> MethodResult:
        aligned = _read(projection, query)
        filled, classes = aligned.part(~aligned.empty), np.unique(labels)
        # Cells without counts have equal probabilities.
        probabilities: Floats = np.full((query.n_obs, len(classes)), 1 / len(classes))
        probabilities[~aligned.empty] = run(filled, projection.fit_scale(filled, "auto", run).scale).probabilities
        return result_from_probabilities(probabilities, classes)

    return predict


def _read(projection: PCAProjection, cells: AnnData) -> AlignedCells:
    """Return cells aligned to the genes of the projection."""
    return joined(list(projection.read(cells).chunks))

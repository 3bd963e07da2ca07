"""The embedding that SpikGPT learns on, with a plain classifier, ``options["classifier"]``, in place of its network.

The query is scaled as SpikGPT scales it, by what the plain classifier says of its cells.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.embeddings.classifiers import CLASSIFIERS
from spikgpt.benchmark.methods.preparing import Clock, labels_of, likeliest, versions_of
from spikgpt.cells.align import AlignedCells, joined
from spikgpt.embedding.pca import PCAProjection
from spikgpt.types import Floats, NetworkOutput, Scale


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by a plain classifier on SpikGPT's principal components."""
    from spikgpt.training.pca import fit_pca

    clock = Clock()
    labels = labels_of(reference, settings.label_key)
    projection = fit_pca(reference, labels, seed=settings.seed)
    classify = CLASSIFIERS[settings.options["classifier"]](
        projection.vectors(_read(projection, reference)), labels, settings.seed
    )
    train_seconds = clock.lap()
    asked = _read(projection, query)

    def seen(cells: AlignedCells, scale: Scale | None) -> NetworkOutput:
        vectors = projection.vectors(cells, scale)
        probabilities = classify(vectors)
        # In place of the energies, by which a scaling is chosen.
        return NetworkOutput.of(vectors, probabilities, np.log(probabilities.max(axis=1)))

    filled = asked.part(~asked.empty)
    found = seen(filled, projection.fit_scale(filled, "auto", seen).scale)
    classes = np.unique(labels)
    # Of cells without counts nothing is known.
    probabilities: Floats = np.full((query.n_obs, len(classes)), 1 / len(classes))
    probabilities[~asked.empty] = found.probabilities
    return replace(
        likeliest(probabilities, classes),
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("spikgpt", "scikit-learn"),
    )


def _read(projection: PCAProjection, cells: AnnData) -> AlignedCells:
    """Return cells as the projection reads them."""
    return joined(list(projection.read(cells).chunks))

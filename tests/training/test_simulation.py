"""Simulated cells of another sample."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.opening import torch_engine
from spikgpt.reference.files import Reference
from spikgpt.training.simulation import simulated_vectors
from tests.conftest import aligned


def test_simulated_cells_look_like_their_type(small: Reference, cells: AnnData) -> None:
    projection, query = torch_engine(small).embedding, aligned(small, cells)
    assert isinstance(projection, PCAProjection)
    vectors = simulated_vectors(projection, query, seed=3)
    assert not np.allclose(vectors, projection.project(query.values, query.totals))
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    found = np.array(small.labels.names)[torch_engine(small).classify(vectors)[0].argmax(axis=1)]
    assert (found == truth).mean() > 0.9
    np.testing.assert_array_equal(simulated_vectors(projection, query, seed=3), vectors)

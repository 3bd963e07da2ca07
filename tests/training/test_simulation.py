"""Simulated cells of another sample keep their labels."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.opening import torch_engine
from spikgpt.reference.files import Reference
from spikgpt.training.simulation import simulated_cells, simulated_vectors
from tests.conftest import aligned, labelled


def test_simulated_cells_look_like_their_type(small: Reference, cells: AnnData) -> None:
    projection, query = torch_engine(small).embedding, aligned(small, cells)
    assert isinstance(projection, PCAProjection)
    vectors = simulated_vectors(projection, query, seed=3)
    assert not np.allclose(vectors, projection.project(query.values, query.totals))
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    labels = np.array(small.labels.names)[torch_engine(small).classify(vectors)[0].argmax(axis=1)]
    assert (labels == truth).mean() > 0.9
    np.testing.assert_array_equal(simulated_vectors(projection, query, seed=3), vectors)


def test_cells_simulated_from_a_reference_get_their_labels(small: Reference) -> None:
    cells = simulated_cells(small, 40)
    assert cells.n_obs == 40 * len(small.labels.names)
    assert (labelled(small, cells).labels == cells.obs["cell_type"].to_numpy()).mean() > 0.9
    np.testing.assert_array_equal(simulated_cells(small, 40).X.toarray(), cells.X.toarray())

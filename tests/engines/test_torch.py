"""The torch engine says of cells what the trained network says, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData

from spikgpt.embedding.obsm import ObsmEmbedding, vector_cells
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.torch import TorchEngine
from spikgpt.reference.files import CLASSIFIER, ReferenceFiles
from tests.conftest import aligned


def test_it_says_what_the_network_says(small: ReferenceFiles, few: AnnData) -> None:
    engine, cells = torch_engine(small), aligned(small, few)
    output = engine.run(cells, engine.embedding.fit_scale(cells, "reference", engine.run).scale)
    weights = {name: torch.from_numpy(array) for name, array in small.part(CLASSIFIER).items()}
    network = SpikingClassifier.from_weights(small.config, weights).double()
    with torch.inference_mode():
        logits = network(torch.from_numpy(output.vectors), literal=False)
    expected = (logits / small.thresholds.temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose(output.probabilities, expected, atol=1e-10)
    np.testing.assert_allclose(output.energies, logits.logsumexp(dim=1).numpy(), atol=1e-10)
    assert np.linalg.norm(output.vectors, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_the_batch_changes_nothing(small: ReferenceFiles, few: AnnData, batch_size: int) -> None:
    engine, cells = torch_engine(small), aligned(small, few)
    scale, done = engine.embedding.fit_scale(cells, "reference", engine.run).scale, []
    expected = engine.run(cells, scale)
    found = engine.run(cells, scale, batch_size=batch_size, on_cells=done.append)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-12)
    assert sum(done) == few.n_obs
    nobody = engine.run(cells.part(slice(0, 0)), scale)
    assert nobody.probabilities.shape == (0, len(small.labels.names))


def test_vectors_that_the_user_brings_are_taken_as_they_are(small: ReferenceFiles) -> None:
    engine = torch_engine(small)
    own = TorchEngine(ObsmEmbedding("X_own", small.config.input_dim), engine.classifier, engine.temperature)
    vectors = np.random.default_rng(0).standard_normal((5, small.config.input_dim))
    output = own.run(vector_cells(vectors, np.zeros(5, dtype=bool)), None)
    np.testing.assert_array_equal(output.vectors, vectors)
    np.testing.assert_array_equal(output.probabilities, engine.classified(vectors)[0])


def test_folded_weights_are_those_of_a_linear_layer_alone(small: ReferenceFiles) -> None:
    engine = torch_engine(small)
    norms = [name for name in engine.weights() if ".norm." in name]
    assert norms
    assert not [name for name in engine.folded_weights() if ".norm." in name]
    assert engine.folded_weights()["head.weight"].dtype == np.float64
    np.testing.assert_allclose(engine.folded_weights()["head.weight"], engine.weights()["head.weight"], atol=1e-7)

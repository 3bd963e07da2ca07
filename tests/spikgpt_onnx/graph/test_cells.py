"""The graph gives the embedding vectors of the library."""

from __future__ import annotations

import numpy as np

from spikgpt import SpikGPT
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines import contract
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.parity import golden_cells
from spikgpt_onnx.rebuild_graph import network_from_reference
from tests.conftest import exportable
from tests.spikgpt_onnx.graph.networks import run


def test_counts_give_the_vectors_of_the_pca_projection(shipped: SpikGPT) -> None:
    reference = exportable(shipped.reference)
    projection, golden = reference.engine.embedding, golden_cells(reference, 50)
    assert isinstance(projection, PCAProjection)
    graph = labelling_graph(network_from_reference(reference.stored))
    np.testing.assert_allclose(run(graph, golden.inputs)[contract.VECTOR], golden.vectors, atol=1e-6)

    genes_found = np.arange(len(projection.genes)) % 3 > 0
    mean, std = projection.mean.astype(np.float64), projection.std.astype(np.float64)
    counts = golden.inputs[contract.COUNTS] * genes_found
    other = {
        contract.COUNTS: counts,
        contract.FOUND: genes_found,
        contract.GENE_MEAN: mean + 0.5,
        contract.GENE_STD: 2 * std,
    }
    expected = projection.project(counts, golden.inputs[contract.TOTAL], ((mean + 0.5) * genes_found, 2 * std))
    np.testing.assert_allclose(run(graph, golden.inputs | other)[contract.VECTOR], expected, atol=1e-6)

"""Stored embeddings are read back with their kind and content."""

from __future__ import annotations

import numpy as np

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.stored import stored_embedding
from spikgpt.reference.files import EMBEDDER, Reference


def test_each_kind_of_embedding_is_read_back(small: Reference) -> None:
    projection = stored_embedding(small.embedder, small.part(EMBEDDER), small.genes)
    assert isinstance(projection, PCAProjection)
    assert (projection.kind, projection.dim, projection.stored_genes) == ("pca", small.config.input_dim, small.genes)
    assert projection.settings() == small.embedder
    for name, tensor in projection.tensors().items():
        np.testing.assert_array_equal(tensor, small.part(EMBEDDER)[name])
    settings = {"kind": "obsm", "key": "X_scvi", "dim": 4}
    assert stored_embedding(settings, {}, GeneList((), ())) == ObsmEmbedding("X_scvi", 4)

"""Cells for scGPT are read by the genes of the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import joined
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.scgpt import ScGPTEmbedding
from spikgpt.embedding.vocabulary import Vocabulary
from spikgpt.errors import ConfigError, GenesError


@pytest.fixture(scope="module")
def embedding(query: AnnData) -> ScGPTEmbedding:
    names = ("<pad>", "<cls>", "<eoc>", *query.var_names[:500])
    return ScGPTEmbedding(Vocabulary(names, "<pad>", -2, 51, 1200, "0" * 64), 8, {"kind": "scgpt"})


def test_values_are_read_for_the_genes_of_the_vocabulary(embedding: ScGPTEmbedding, few: AnnData) -> None:
    read = embedding.read(few)
    cells = joined(list(read.chunks))
    np.testing.assert_array_equal(cells.values.toarray(), few[:, list(embedding.vocabulary.genes.symbols)].X.toarray())
    assert (read.report.genes_matched, read.report.genes_total, read.report.of_query) == (500, few.n_vars, True)
    assert read.report.genes == f"500 of the query's {few.n_vars} genes are in the vocabulary."


def test_a_cell_without_genes_of_the_vocabulary_is_empty(embedding: ScGPTEmbedding, few: AnnData) -> None:
    cells = few[:3].copy()
    counts = cells.X.tolil()
    counts[1, :500] = 0
    cells.X = sparse.csr_matrix(counts)
    assert joined(list(embedding.read(cells).chunks)).empty.tolist() == [False, True, False]


def test_the_embedding_has_neither_scale_nor_expression(embedding: ScGPTEmbedding, few: AnnData) -> None:
    cells = joined(list(embedding.read(few).chunks))
    assert embedding.fit_scale(cells, "auto", lambda _, __: pytest.fail("the network ran")).scale is None
    as_any: Embedding = embedding
    assert as_any.logs(cells) is None
    assert as_any.profiles(cells) is None
    with pytest.raises(ConfigError, match="scaling is 'query'"):
        embedding.read(few, scaling="query")


def test_genes_are_kept_with_a_checkpoint_alone(embedding: ScGPTEmbedding) -> None:
    assert len(embedding.stored_genes) == 0
    bundled = ScGPTEmbedding(embedding.vocabulary, 8, {}, {"weight": np.zeros(1, dtype=np.float32)})
    assert bundled.stored_genes == embedding.vocabulary.genes


def test_other_genes_are_refused(embedding: ScGPTEmbedding, few: AnnData) -> None:
    cells = few.copy()
    cells.var_names = [f"gene {number}" for number in range(few.n_vars)]
    with pytest.raises(GenesError, match="Found 0 of the reference's 500 genes"):
        embedding.read(cells)

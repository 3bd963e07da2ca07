"""The upstream tokenizer gives exactly the tokens of the collator in the scgpt package."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer
from tests import upstream

PAD, CLS, PAD_VALUE = 0, 1, -2


@pytest.fixture(scope="module")
def values(query: AnnData) -> sparse.csr_matrix:
    """Return the counts of 60 real cells, none of which is empty: the scgpt package fails on a cell without counts."""
    return sparse.csr_matrix(query.X[:60])


@pytest.fixture(scope="module")
def gene_ids(query: AnnData) -> npt.NDArray[np.int64]:
    return np.arange(query.n_vars) + 2


@pytest.mark.parametrize("max_length", [1200, 300])
@pytest.mark.parametrize("logs", [False, True])
def test_tokens_equal_those_of_the_collator(
    values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64], max_length: int, logs: bool
) -> None:
    used = values.log1p() if logs else values
    collate = upstream.collator(PAD, PAD_VALUE, max_length)
    cells = upstream.examples(used, gene_ids, CLS, PAD_VALUE)
    with upstream.seeded(5, 6):
        expected = [collate(cells[start : start + 16]) for start in range(0, len(cells), 16)]

    tokens = UpstreamTokenizer(5, 6).tokenise(used, gene_ids, cls_id=CLS, pad_value=PAD_VALUE, max_length=max_length)

    for start, batch in zip(range(0, len(cells), 16), expected, strict=True):
        genes, bins = tokens.padded(np.arange(start, min(start + 16, len(cells))), PAD, PAD_VALUE)
        assert np.array_equal(genes, batch["gene"].numpy())
        assert np.array_equal(bins, batch["expr"].numpy())

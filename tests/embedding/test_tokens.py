"""Tokens follow the distributions of the random draws in the scgpt package, and are the same for the same cell."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spikgpt.embedding.tokens import Tokens, tokenise

PAD, CLS, PAD_VALUE = 0, 1, -2


@pytest.fixture(scope="module")
def values(query: AnnData) -> sparse.csr_matrix:
    """Return the counts of 60 real cells, and of one cell without counts."""
    counts = query.X[:60].tocsr()
    return sparse.csr_matrix(sparse.vstack([counts, sparse.csr_matrix((1, counts.shape[1]), dtype=counts.dtype)]))


@pytest.fixture(scope="module")
def gene_ids(query: AnnData) -> npt.NDArray[np.int64]:
    return np.arange(query.n_vars) + 2


def cell(tokens: Tokens, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]:
    """Return the genes and bins of a cell, without the token <cls>."""
    part = slice(tokens.offsets[index] + 1, tokens.offsets[index + 1])
    return tokens.genes[part], tokens.bins[part]


@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_bins_are_quantiles_with_ties_in_between(
    values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64], scale: float
) -> None:
    scaled = (values * np.float32(scale)).astype(np.float32)
    tokens = tokenise(scaled, gene_ids, cls_id=CLS, pad_value=PAD_VALUE, max_length=100_000)

    for index in range(values.shape[0] - 1):
        row = scaled.data[scaled.indptr[index] : scaled.indptr[index + 1]]
        edges = np.quantile(row, np.linspace(0, 1, 50))
        upper, lower = np.digitize(row, edges), np.digitize(row, edges, right=True)
        genes, bins = cell(tokens, index)
        assert np.array_equal(genes, gene_ids[scaled.indices[scaled.indptr[index] : scaled.indptr[index + 1]]])
        assert (bins <= upper).all()
        assert (bins >= np.minimum(lower + 1, upper)).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 400) | st.floats(0.0078125, 300, width=32), min_size=1, max_size=80))
def test_quantiles_equal_those_of_numpy_for_any_values(row: list[float]) -> None:
    values = sparse.csr_matrix(np.array([row], dtype=np.float32))
    tokens = tokenise(values, np.arange(len(row)), cls_id=CLS, pad_value=PAD_VALUE)
    edges = np.quantile(values.data, np.linspace(0, 1, 50))
    upper, lower = np.digitize(values.data, edges), np.digitize(values.data, edges, right=True)

    _, bins = cell(tokens, 0)

    assert (bins <= upper).all()
    assert (bins >= np.minimum(lower + 1, upper)).all()


def test_ties_spread_evenly_over_their_bins() -> None:
    # 20,000 genes have one count and fill bins 1 to 25; 20,000 genes have two counts and fill the other bins.
    values = sparse.csr_matrix(np.repeat(np.array([[1, 2]], dtype=np.float32), 20_000, axis=1))
    tokens = tokenise(values, np.arange(40_000), cls_id=CLS, pad_value=PAD_VALUE, max_length=100_000)

    counts = np.bincount(cell(tokens, 0)[1], minlength=51)[1:]

    assert counts.sum() == 40_000
    assert counts[:24] == pytest.approx(20_000 / 25, abs=5 * np.sqrt(800))


def test_a_long_cell_is_a_fair_subset() -> None:
    cells, genes = 400, 1000
    values = sparse.csr_matrix(np.random.default_rng(0).integers(1, 9, (cells, genes)).astype(np.float32))
    tokens = tokenise(values, np.arange(genes), cls_id=CLS, pad_value=PAD_VALUE, max_length=251)

    chosen = np.bincount(np.concatenate([cell(tokens, index)[0] for index in range(cells)]), minlength=genes)

    assert (tokens.lengths == 251).all()
    # Each cell keeps 250 of 1000 genes, so a gene is kept in 100 of 400 cells on average, standard deviation 8.7.
    assert chosen.mean() == 100
    assert chosen.std() == pytest.approx(8.7, rel=0.15)


def test_tokens_do_not_depend_on_the_order_of_cells(values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64]) -> None:
    order = np.random.default_rng(0).permutation(values.shape[0])
    options = {"cls_id": CLS, "pad_value": PAD_VALUE, "max_length": 500}
    tokens = tokenise(values, gene_ids, **options)
    shuffled = tokenise(values[order], gene_ids, **options)

    for row, index in enumerate(order):
        (genes, bins), (other_genes, other_bins) = cell(tokens, index), cell(shuffled, row)
        assert np.array_equal(genes, other_genes)
        assert np.array_equal(bins, other_bins)


def test_another_draw_gives_other_subsets(values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64]) -> None:
    first, second = (
        tokenise(values, gene_ids, cls_id=CLS, pad_value=PAD_VALUE, max_length=500, draw=draw) for draw in (1, 2)
    )
    assert not np.array_equal(first.genes, second.genes)


def test_a_cell_without_counts_is_cls_alone(values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64]) -> None:
    tokens = tokenise(values, gene_ids, cls_id=CLS, pad_value=PAD_VALUE)

    assert tokens.lengths[-1] == 1
    genes, bins = tokens.padded(np.array([0, values.shape[0] - 1]), PAD, PAD_VALUE)
    assert genes[1, 0] == CLS
    assert (genes[1, 1:] == PAD).all()
    assert (bins[1] == PAD_VALUE).all()


def test_golden_tokens() -> None:
    # The hash must not change: other tokens would invalidate cached embeddings and trained references.
    values = sparse.csr_matrix(np.array([[1, 1, 2, 1, 5, 3.5, 1, 300]], dtype=np.float32))
    tokens = tokenise(values, np.arange(8) * 10, cls_id=CLS, pad_value=PAD_VALUE, max_length=7)

    assert tokens.genes.tolist() == GOLDEN_GENES
    assert tokens.bins.tolist() == GOLDEN_BINS


GOLDEN_GENES = [1, 0, 10, 30, 40, 60, 70]
GOLDEN_BINS = [-2, 20, 14, 18, 43, 11, 50]


def test_cells_are_tokenised_without_a_writable_cache() -> None:
    code = """if True:
        from numba.core import caching
        caching.CacheImpl._locator_classes = []  # as if no folder were writable
        from spikgpt.embedding import tokens
        import numpy as np
        print(tokens._mix(np.uint64(1)))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == 0x5692161D100B05E5

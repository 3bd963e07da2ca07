"""Cached cells are read back unchanged."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells import cell_cache
from spikgpt.cells.align import AlignedCells, aligned_chunks, joined
from spikgpt.cells.cell_cache import CellCache
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import match_genes
from spikgpt.errors import ConfigError
from spikgpt.reference.files import Reference
from spikgpt.sampling import content_keys, sample_of


@pytest.fixture
def whole_and_chunks(small: Reference, query: AnnData) -> tuple[AlignedCells, list[AlignedCells]]:
    """Return all aligned cells as one object, and in chunks of 70 cells; two cells have no counts."""
    adata = query.copy()
    counts = adata.X.tolil()
    counts[[0, 100]] = 0
    adata.X = counts.tocsr()
    expression = find_expression(adata)
    chunks = list(aligned_chunks(expression, match_genes(expression.var, small.genes), chunk_size=70))
    return joined(chunks), chunks


@pytest.mark.parametrize("in_memory", [100, 10**9], ids=["on disk", "in memory"])
def test_chunks_can_be_read_twice(
    whole_and_chunks: tuple[AlignedCells, list[AlignedCells]], in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunks = whole_and_chunks
    monkeypatch.setattr(cell_cache, "IN_MEMORY", in_memory)
    with CellCache() as cache:
        for chunk in chunks:
            cache.append(chunk)
        for _ in range(2):
            rows, back = zip(*cache.chunks(), strict=True)
            assert np.array_equal(np.concatenate(rows), np.arange(300))
            assert [len(chunk.totals) for chunk in back] == [70, 70, 70, 70, 20]
            assert np.array_equal(np.concatenate([chunk.totals for chunk in back]), whole.totals)
            for chunk, before in zip(back, chunks, strict=True):
                assert (chunk.values != before.values).nnz == 0
                assert chunk.values.dtype == np.float32
                assert np.array_equal(chunk.genes_present, whole.genes_present)
                assert chunk.kind == whole.kind


def test_the_sample_is_chosen_among_cells_that_are_not_empty(
    whole_and_chunks: tuple[AlignedCells, list[AlignedCells]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunks = whole_and_chunks
    monkeypatch.setattr(sample_of, "__defaults__", (50,))
    filled = whole.part(~whole.empty)
    with CellCache() as cache:
        for chunk in chunks:
            cache.append(chunk)
        sample, rows = cache.sample()
    assert len(filled.totals) == 298
    shown = sample_of(content_keys(filled.values))
    assert np.array_equal(rows, np.flatnonzero(~whole.empty)[shown])
    assert 40 <= len(shown) <= 50
    assert (sample.values != filled.values[shown]).nnz == 0
    assert np.array_equal(sample.totals, filled.totals[shown])


@pytest.mark.parametrize("top", [255.0, 256.0, 0.5, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_read_back_to_the_bit(top: float, dtype: type) -> None:
    values = sparse.csr_matrix(np.array([[1, 0, top], [0, 0, 0], [0, 2, 3]], dtype=dtype))
    chunk = AlignedCells(values, np.array([9.0, 0, 5]), np.ones(3, dtype=bool), "linear")
    with CellCache() as cache:
        cache.append(chunk)
        cache.append(chunk.part(slice(0)))
        ((_, back), (_, none)) = cache.chunks()
    assert back.values.dtype == dtype
    assert none.values.shape == (0, 3)
    np.testing.assert_array_equal(back.values.toarray(), values.toarray())


def test_genes_beyond_65536_are_read_back() -> None:
    values = sparse.csr_matrix((np.ones(2, dtype=np.float32), ([0, 0], [3, 70_000])), shape=(1, 70_001))
    with CellCache() as cache:
        cache.append(AlignedCells(values, np.ones(1), np.ones(70_001, dtype=bool), "counts"))
        ((_, back),) = cache.chunks()
    assert (back.values != values).nnz == 0


def test_a_full_temporary_folder_is_named(
    whole_and_chunks: tuple[AlignedCells, list[AlignedCells]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_cache, "IN_MEMORY", 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with CellCache() as cache, pytest.raises(ConfigError, match="TMPDIR"):
            cache.append(whole_and_chunks[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_empty_cache_has_no_chunks() -> None:
    with CellCache() as cache:
        assert list(cache.chunks()) == []

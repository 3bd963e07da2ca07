"""Cells that were put aside come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells import spool
from spikgpt.cells.align import AlignedCells, align, aligned_chunks
from spikgpt.cells.expression import find_expression
from spikgpt.cells.spool import Spool
from spikgpt.sampling import content_keys, sample_of
from spikgpt.training.reference import Reference


@pytest.fixture
def spooled(small: Reference, query: AnnData) -> tuple[AlignedCells, list[AlignedCells]]:
    """All cells at once, one of them empty, and in chunks of 70."""
    assert small.embedder.genes is not None
    adata = query.copy()
    counts = adata.X.tolil()
    counts[[0, 100]] = 0
    adata.X = counts.tocsr()
    expression = find_expression(adata)
    return align(expression, small.embedder.genes), list(
        aligned_chunks(expression, small.embedder.genes, chunk_size=70)
    )


@pytest.mark.parametrize("in_memory", [100, 10**9], ids=["on disk", "in memory"])
def test_chunks_come_back_twice(
    spooled: tuple[AlignedCells, list[AlignedCells]], in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunks = spooled
    monkeypatch.setattr(spool, "IN_MEMORY", in_memory)
    with Spool() as aside:
        for chunk in chunks:
            aside.add(chunk)
        for _ in range(2):
            back = list(aside.chunks())
            assert [len(chunk.totals) for chunk in back] == [70, 70, 70, 70, 20]
            assert np.array_equal(np.concatenate([chunk.totals for chunk in back]), whole.totals)
            for chunk, before in zip(back, chunks, strict=True):
                assert (chunk.values != before.values).nnz == 0
                assert chunk.values.dtype == np.float32
                assert np.array_equal(chunk.found, whole.found)
                assert (chunk.kind, chunk.notes) == (whole.kind, whole.notes)


def test_the_sample_is_that_of_all_cells_that_are_not_empty(
    spooled: tuple[AlignedCells, list[AlignedCells]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunks = spooled
    monkeypatch.setattr(sample_of, "__defaults__", (50,))
    filled = whole.part(~whole.empty)
    with Spool() as aside:
        for chunk in chunks:
            aside.add(chunk)
        sample, shown = aside.sample()
    assert len(filled.totals) == 298
    assert np.array_equal(shown, sample_of(content_keys(filled.values)))
    assert 40 <= len(shown) <= 50
    assert (sample.values != filled.values[shown]).nnz == 0
    assert np.array_equal(sample.totals, filled.totals[shown])


def test_nothing_put_aside_gives_nothing() -> None:
    with Spool() as aside:
        assert list(aside.chunks()) == []

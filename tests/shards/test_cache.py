"""Cached cells are read as they were written; a full disk loses only the cache."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.cells.align import AlignedCells, joined
from spikgpt.shards.cache import ShardCache
from tests.conftest import aligned


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, to simulate a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def chunks(shipped: SpikGPT, few: AnnData) -> list[AlignedCells]:
    """Return 120 cells in chunks of 50."""
    cells = aligned(shipped.reference, few)
    return [cells.part(slice(start, start + 50)) for start in range(0, 120, 50)]


def filled_cache(path: Path, chunks: list[AlignedCells]) -> ShardCache:
    cache = ShardCache(path, np.array([f"cell {row}" for row in range(120)]), np.arange(120) % 3)
    for number, chunk in enumerate(chunks):
        cache.append(50 * number, chunk)
    return cache


def test_cells_come_back_as_they_were(chunks: list[AlignedCells], tmp_path: Path) -> None:
    cache = filled_cache(tmp_path / "cells", chunks)
    assert cache.intact
    names, codes = cache.head()
    assert (names[119], codes[119]) == ("cell 119", 119 % 3)
    for _ in range(2):
        starts, back = zip(*cache.chunks(), strict=True)
        assert starts == (0, 50, 100)
        cached, expected_cells = joined(list(back)), joined(chunks)
        assert (cached.values != expected_cells.values).nnz == 0
        np.testing.assert_array_equal(cached.totals, expected_cells.totals)
        np.testing.assert_array_equal(cached.genes_present, expected_cells.genes_present)
        assert cached.kind == expected_cells.kind
    for rows, expected in (([49], [0]), ([50, 99], [50]), ([0, 119], [0, 100]), ([], [])):
        assert [start for start, _ in cache.chunks(np.array(rows, dtype=np.int64))] == expected


def test_a_cache_that_was_lost_or_cut_is_not_intact(chunks: list[AlignedCells], tmp_path: Path) -> None:
    cache = filled_cache(tmp_path / "cells", chunks)
    with (tmp_path / "cells").open("r+b") as file:
        file.truncate(1000)
    assert not cache.intact
    cache.remove()
    assert not cache.intact
    assert not list(tmp_path.iterdir())
    cache.remove()


@pytest.mark.parametrize("size", [10, 20_000])
def test_a_full_disk_loses_the_cache_only(chunks: list[AlignedCells], tmp_path: Path, size: int) -> None:
    with limit_file_size(size):
        cache = filled_cache(tmp_path / "cells", chunks)
    assert not cache.intact
    assert not list(tmp_path.iterdir())

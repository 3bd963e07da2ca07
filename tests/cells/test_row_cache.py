"""Cached blocks of rows are read back unchanged, and a full disk raises no error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from spikgpt.cells import row_cache
from spikgpt.cells.row_cache import RowCache

ROWS = sparse.random(20, 30, density=0.3, format="csr", dtype=np.float32, random_state=0)


@pytest.mark.parametrize("values", [1, 255, 256, 0.5, -1, np.nan, np.inf])
def test_blocks_are_read_back_by_their_number(values: float) -> None:
    block = ROWS.copy()
    block.data[:] = values
    cache = RowCache(30)
    cache.add(7, ROWS)
    cache.add(2, block)
    for number, expected in ((2, block), (7, ROWS)):
        rows = cache.get(number)
        assert rows is not None
        assert rows.dtype == np.float32
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))
    assert cache.get(3) is None


def test_more_than_65536_columns_are_kept() -> None:
    wide = sparse.csr_matrix(([1.0, 2.0], ([0, 1], [5, 70_000])), shape=(2, 70_001), dtype=np.float32)
    cache = RowCache(70_001)
    cache.add(0, wide)
    rows = cache.get(0)
    assert rows is not None
    assert (rows != wide).nnz == 0


def test_a_block_is_not_kept_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = RowCache(30)
    cache.add(0, ROWS)
    monkeypatch.setattr(row_cache, "save_rows", full)
    cache.add(1, ROWS)
    assert cache.get(1) is None
    assert cache.get(0) is not None

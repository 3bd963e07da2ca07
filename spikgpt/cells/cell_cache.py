"""Aligned cells put aside while a query is read, in memory as long as they are few, then on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Rows

# Bytes kept in memory.
IN_MEMORY = 64 * 1024 * 1024


class CellCache:
    """The cells of a query in chunks, to be read again in the same order; use it in a ``with`` statement."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)
        self._like: AlignedCells | None = None
        self._sizes: list[int] = []
        # Of the cells that are not empty: row numbers in the query, and keys.
        self._rows: list[Rows] = []
        self._keys: list[npt.NDArray[np.float64]] = []

    def __enter__(self) -> CellCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, chunk: AlignedCells) -> None:
        """Put cells aside."""
        # What holds for all cells is kept once.
        self._like = replace(chunk, values=chunk.values[:0], totals=chunk.totals[:0])
        filled = np.flatnonzero(~chunk.empty)
        self._rows.append(sum(self._sizes) + filled)
        self._keys.append(content_keys(chunk.values[filled]))
        self._sizes.append(len(chunk.totals))
        for array in (chunk.totals, chunk.values.data, chunk.values.indices, chunk.values.indptr):
            np.save(self._file, array)

    def chunks(self) -> Iterator[tuple[Rows, AlignedCells]]:
        """Give the cells again, with their row numbers in the query."""
        if self._like is None:
            return
        self._file.seek(0)
        start = 0
        for size in self._sizes:
            totals, *parts = (np.load(self._file) for _ in range(4))
            values = sparse.csr_matrix(tuple(parts), (size, self._like.values.shape[1]))
            yield np.arange(start, start + size), replace(self._like, values=values, totals=totals)
            start += size

    def sample(self) -> tuple[AlignedCells, Rows]:
        """Return a sample of the cells that are not empty, and their row numbers in the query, ascending."""
        chosen = np.concatenate(self._rows)[sample_of(np.concatenate(self._keys))]
        return joined([chunk.part(np.isin(rows, chosen)) for rows, chunk in self.chunks()]), chosen

"""Cache for the aligned cells of a query: in memory while they are few, then on disk."""

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
        # An empty chunk with the attributes that all cells share.
        self._template: AlignedCells | None = None
        self._sizes: list[int] = []
        # Row numbers in the query, and content keys, of the cells that are not empty.
        self._rows: list[Rows] = []
        self._keys: list[npt.NDArray[np.float64]] = []

    def __enter__(self) -> CellCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunk: AlignedCells) -> None:
        """Store the next cells of the query."""
        self._template = replace(chunk, values=chunk.values[:0], totals=chunk.totals[:0])
        filled = np.flatnonzero(~chunk.empty)
        self._rows.append(sum(self._sizes) + filled)
        self._keys.append(content_keys(chunk.values[filled]))
        self._sizes.append(len(chunk.totals))
        for array in (chunk.totals, chunk.values.data, chunk.values.indices, chunk.values.indptr):
            np.save(self._file, array)

    def chunks(self) -> Iterator[tuple[Rows, AlignedCells]]:
        """Yield the row numbers in the query, and the cells, of each chunk."""
        if self._template is None:
            return
        self._file.seek(0)
        start = 0
        for size in self._sizes:
            totals, *parts = (np.load(self._file) for _ in range(4))
            values = sparse.csr_matrix(tuple(parts), (size, self._template.values.shape[1]))
            yield np.arange(start, start + size), replace(self._template, values=values, totals=totals)
            start += size

    def sample(self) -> tuple[AlignedCells, Rows]:
        """Return a sample of the cells that are not empty, and their row numbers in the query, ascending."""
        chosen = np.concatenate(self._rows)[sample_of(np.concatenate(self._keys))]
        return joined([chunk.part(np.isin(rows, chosen)) for rows, chunk in self.chunks()]), chosen

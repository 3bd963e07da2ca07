"""Aligned cells put aside while a query is read, in memory as long as they are few, then on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Rows

# Bytes kept in memory.
IN_MEMORY = 64 * 1024 * 1024


class Spool:
    """The cells of a query in chunks, to be read again in the same order; use it in a ``with`` statement."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)
        self._like: AlignedCells | None = None
        self._sizes: list[int] = []
        self._keys: list[npt.NDArray[np.float64]] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, chunk: AlignedCells) -> None:
        """Put cells aside."""
        # What holds for all cells is kept once.
        self._like = replace(chunk, values=chunk.values[:0], totals=chunk.totals[:0])
        self._sizes.append(len(chunk.totals))
        self._keys.append(content_keys(chunk.part(~chunk.empty).values))
        for array in (chunk.totals, chunk.values.data, chunk.values.indices, chunk.values.indptr):
            np.save(self._file, array)

    def chunks(self) -> Iterator[AlignedCells]:
        """Give the cells again."""
        if self._like is None:
            return
        self._file.seek(0)
        for size in self._sizes:
            totals, *parts = (np.load(self._file) for _ in range(4))
            values = sparse.csr_matrix(tuple(parts), (size, self._like.values.shape[1]))
            yield replace(self._like, values=values, totals=totals)

    def sample(self) -> tuple[AlignedCells, Rows]:
        """Return a sample of the cells that are not empty, and their indices among these."""
        shown = sample_of(np.concatenate(self._keys))
        parts, start = [], 0
        for chunk in self.chunks():
            filled = chunk.part(~chunk.empty)
            stop = start + len(filled.totals)
            parts.append(filled.part(shown[np.searchsorted(shown, start) : np.searchsorted(shown, stop)] - start))
            start = stop
        return joined(parts), shown

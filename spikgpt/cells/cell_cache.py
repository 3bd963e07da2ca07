"""Cache for the aligned cells of a query: in memory while they are few, then on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.row_buckets import close_temporary, temporary_space
from spikgpt.cells.row_cache import load_rows, save_rows
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Rows

# Largest cache in bytes that is kept in memory; a larger cache is moved to a temporary file.
IN_MEMORY = 64 * 1024 * 1024


class CellCache:
    """Chunks of a query's cells, to be read again in the same order; use it in a ``with`` statement.

    Small counts take one byte each, and gene indices two bytes.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)
        # An empty chunk with the attributes that all cells share.
        self._template: AlignedCells | None = None
        self._sizes: list[int] = []
        # Both lists have one item per chunk, for the cells that are not empty: the row numbers in the query, and keys
        # that are computed from the values.
        self._rows: list[Rows] = []
        self._keys: list[npt.NDArray[np.float64]] = []

    def __enter__(self) -> CellCache:
        return self

    def __exit__(self, *_: object) -> None:
        close_temporary(self._file)

    def append(self, chunk: AlignedCells) -> None:
        """Store the next chunk of cells of the query."""
        self._template = replace(chunk, values=chunk.values[:0], totals=chunk.totals[:0])
        filled = np.flatnonzero(~chunk.empty)
        self._rows.append(sum(self._sizes) + filled)
        self._keys.append(content_keys(chunk.values[filled]))
        self._sizes.append(len(chunk.totals))
        with temporary_space("the cells as the reference reads them"):
            np.save(self._file, chunk.totals)
            save_rows(self._file, chunk.values)

    @property
    def template(self) -> AlignedCells:
        """Return a chunk without cells, but with the attributes that all cells share: genes and kind of values."""
        assert self._template is not None  # append has set the template
        return self._template

    def chunks(self) -> Iterator[tuple[Rows, AlignedCells]]:
        """Yield each chunk as the row numbers of its cells in the query, and the cells."""
        if self._template is None:
            return
        self._file.seek(0)
        start = 0
        for size in self._sizes:
            totals, values = np.load(self._file), load_rows(self._file, self._template.values.shape[1])
            yield np.arange(start, start + size), replace(self._template, values=values, totals=totals)
            start += size

    def sample(self) -> tuple[AlignedCells, Rows]:
        """Return a sample of the cells that are not empty, and their row numbers in the query, ascending."""
        chosen = np.concatenate(self._rows)[sample_of(np.concatenate(self._keys))]
        parts, first = [], 0
        for rows, chunk in self.chunks():
            last = first + int(np.searchsorted(chosen[first:], rows[-1], side="right"))
            parts.append(chunk.part(chosen[first:last] - rows[0]))
            first = last
        return joined(parts), chosen

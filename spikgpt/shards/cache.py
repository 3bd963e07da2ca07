"""Cache of a shard's aligned cells on the disk of a worker: the first pass writes it, and the second pass reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.types import Integers, Rows, Strings


class ShardCache:
    """File with the aligned cells of a shard in chunks, the names of the cells, and codes of their batches.

    If the disk is full, the file is deleted. ``intact`` is then False, and the shard is read again.

    Parameters
    ----------
    path
        Path of the cache file.
    obs_names, codes
        Names of the n cells, and for each cell the index of its combination of values in the batch columns. Both have
        the shape (n,).
    """

    def __init__(self, path: Path, obs_names: Strings, codes: Integers) -> None:
        self._path, self._size, self._cells = path, 0, len(codes)
        # A chunk without cells, which holds the attributes that all chunks share.
        self._template: AlignedCells | None = None
        # First row of each chunk, and byte at which the chunk starts in the file.
        self._starts: list[int] = []
        self._offsets: list[int] = []
        self._write((obs_names, codes), "wb")

    def append(self, start: int, chunk: AlignedCells) -> None:
        """Store a chunk of cells; ``start`` is the row of its first cell in the shard."""
        self._template = replace(chunk, values=chunk.values[:0], totals=chunk.totals[:0])
        self._starts.append(start)
        self._offsets.append(self._size)
        if self._size:
            self._write((chunk.totals, chunk.values.data, chunk.values.indices, chunk.values.indptr), "ab")

    @property
    def intact(self) -> bool:
        """True if the file is complete."""
        return self._size > 0 and self._path.is_file() and self._path.stat().st_size == self._size

    def head(self) -> tuple[Strings, Integers]:
        """Return the names of the n cells and the codes of their batch values, as two arrays of shape (n,)."""
        with self._path.open("rb") as file:
            return np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)

    def chunks(self, rows: Rows | None = None) -> Iterator[tuple[int, AlignedCells]]:
        """Yield the first row and the cells of each chunk that holds a row of ``rows``; None yields all chunks."""
        ends = [*self._starts[1:], self._cells]
        with self._path.open("rb") as file:
            for start, end, offset in zip(self._starts, ends, self._offsets, strict=True):
                if rows is None or np.searchsorted(rows, end) > np.searchsorted(rows, start):
                    file.seek(offset)
                    totals, *parts = (np.load(file, allow_pickle=False) for _ in range(4))
                    assert self._template is not None
                    values = sparse.csr_matrix(tuple(parts), (end - start, self._template.values.shape[1]))
                    yield start, replace(self._template, values=values, totals=totals)

    def remove(self) -> None:
        """Delete the file of the cache."""
        self._size = 0
        self._path.unlink(missing_ok=True)

    def _write(self, arrays: tuple[npt.NDArray[Any], ...], mode: str) -> None:
        try:
            with self._path.open(mode) as file:
                for array in arrays:
                    np.save(file, array)
                self._size = file.tell()
        except OSError:
            self.remove()

"""Aligned cells of a shard on the disk of a worker, from the first pass to the second."""

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
    """The aligned cells of a shard in chunks, with the names and the batches of the cells.

    A full disk only loses the cache: ``intact`` is then False, and the shard is read again.

    Parameters
    ----------
    path
        File of the cache.
    obs_names, codes
        Names of the cells, and index of the combination of values of the batch columns of each cell, each shape (n,).
    """

    def __init__(self, path: Path, obs_names: Strings, codes: Integers) -> None:
        self._path, self._size, self._cells = path, 0, len(codes)
        # An empty chunk with the attributes that all cells share.
        self._template: AlignedCells | None = None
        # First row of each chunk, and its position in the file.
        self._starts: list[int] = []
        self._offsets: list[int] = []
        self._write((obs_names, codes), "wb")

    def append(self, start: int, chunk: AlignedCells) -> None:
        """Store the cells from row ``start`` of the shard."""
        self._template = replace(chunk, values=chunk.values[:0], totals=chunk.totals[:0])
        self._starts.append(start)
        self._offsets.append(self._size)
        if self._size:
            self._write((chunk.totals, chunk.values.data, chunk.values.indices, chunk.values.indptr), "ab")

    @property
    def intact(self) -> bool:
        """True if all cells are there."""
        return self._size > 0 and self._path.is_file() and self._path.stat().st_size == self._size

    def head(self) -> tuple[Strings, Integers]:
        """Return the names of the cells and their codes, each of shape (n,)."""
        with self._path.open("rb") as file:
            return np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)

    def chunks(self, rows: Rows | None = None) -> Iterator[tuple[int, AlignedCells]]:
        """Yield the first row and the cells of each chunk; with ``rows``, only of the chunks that hold one of these."""
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
        """Delete the file."""
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

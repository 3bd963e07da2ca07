"""From counts to scGPT's input: one token a gene that was counted, each with its quantile bin in the cell.

Upstream breaks ties between bins, and chooses which genes of a long cell to read, by random draws. Here both follow the
same distributions, drawn from a hash of the gene and of the cell's content, so that a cell always has the same tokens:
whatever the batch, the order of cells and genes, or the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from scipy import sparse

# Whole values below this are counted instead of sorted.
_COUNTED = 256
_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Tokens:
    """Tokens of n cells, one cell after the other.

    Cell c has the vocabulary ids ``genes[offsets[c]:offsets[c + 1]]`` and the values ``bins`` of the same places; the
    first is always ``<cls>``, with the padding value.
    """

    offsets: npt.NDArray[np.int64]
    genes: npt.NDArray[np.int32]
    bins: npt.NDArray[np.int16]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each cell, shape (n,)."""
        return np.diff(self.offsets)

    def padded(
        self, cells: npt.NDArray[np.int64], pad_id: int, pad_value: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return genes and bins of some cells, both of shape (cells, longest of them)."""
        shape = (len(cells), int(self.lengths[cells].max()))
        genes, bins = np.full(shape, pad_id, dtype=np.int32), np.full(shape, pad_value, dtype=np.int32)
        _fill(self.offsets, self.genes, self.bins, cells, genes, bins)
        return genes, bins


def tokenise(
    values: sparse.csr_matrix,
    gene_ids: npt.NDArray[np.int64],
    *,
    cls_id: int,
    pad_value: int,
    n_bins: int = 51,
    max_length: int = 1200,
    draw: int = 0,
) -> Tokens:
    """Turn cells into tokens, the same for the same cell.

    Parameters
    ----------
    values
        Counts, or other values of which 0 means absent, shape (n, G), without negative values.
    gene_ids
        Vocabulary id of each column, shape (G,), ascending.
    cls_id
        Vocabulary id of ``<cls>``.
    pad_value
        Value of ``<cls>``.
    n_bins
        Bins, that of absent genes included.
    max_length
        Tokens of a cell at most, ``<cls>`` included; of a longer cell a random subset of the genes is read.
    draw
        Another number gives other ties and subsets, as training wants them in every epoch.
    """
    lengths = np.minimum(np.diff(values.indptr), max_length - 1) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    genes, bins = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1], dtype=np.int16)
    data = np.ascontiguousarray(values.data, dtype=np.float32)
    genes[offsets[:-1]], bins[offsets[:-1]] = cls_id, pad_value
    cells = values.indptr.astype(np.int64), values.indices, data
    _tokenise(cells, gene_ids.astype(np.int32), np.linspace(0, 1, n_bins - 1), draw, offsets, genes, bins)
    return Tokens(offsets, genes, bins)


def _compiled(**options: Any) -> Callable[[Function], Function]:
    """Return numba's decorator, with a type."""

    def compiled(function: Function) -> Function:
        try:
            return cast("Function", numba.njit(**options)(function))
        except RuntimeError:
            # Compiled code can be kept neither beside this file nor in the user's cache folder.
            return cast("Function", numba.njit(**options | {"cache": False})(function))

    return compiled


@_compiled()
def _mix(word: np.uint64) -> np.uint64:
    """Scramble a 64-bit word (the finaliser of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


@_compiled()
def _sort(values: npt.NDArray[np.float32]) -> None:
    """Sort in place (Shell's method)."""
    gap = len(values) // 2
    while gap:
        for index in range(gap, len(values)):
            value, place = values[index], index
            while place >= gap and values[place - gap] > value:
                values[place] = values[place - gap]
                place -= gap
            values[place] = value
        gap = 1 if gap == 2 else int(gap * 5 // 11)


@_compiled()
def _nth(words: npt.NDArray[np.uint64], n: int) -> np.uint64:
    """Return the n-th smallest of random words, n from 1: by their first 11 bits, then within those that share them."""
    counts = np.zeros(2048, dtype=np.int64)
    for word in words:
        counts[word >> np.uint64(53)] += 1
    bucket = 0
    while n > counts[bucket]:
        n -= counts[bucket]
        bucket += 1
    few = np.empty(counts[bucket], dtype=np.uint64)
    size = 0
    for word in words:
        if word >> np.uint64(53) == np.uint64(bucket):
            place = size
            while place and few[place - 1] > word:
                few[place] = few[place - 1]
                place -= 1
            few[place] = word
            size += 1
    nth: np.uint64 = few[n - 1]
    return nth


@_compiled(nogil=True, cache=True)
def _fill(
    offsets: npt.NDArray[np.int64],
    genes: npt.NDArray[np.int32],
    bins: npt.NDArray[np.int16],
    cells: npt.NDArray[np.int64],
    padded_genes: npt.NDArray[np.int32],
    padded_bins: npt.NDArray[np.int32],
) -> None:
    """Copy the tokens of some cells to the starts of the rows."""
    for row in range(len(cells)):
        start = offsets[cells[row]]
        for place in range(offsets[cells[row] + 1] - start):
            padded_genes[row, place] = genes[start + place]
            padded_bins[row, place] = bins[start + place]


@_compiled(nogil=True)
def _distinct(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the distinct values of a cell in order, and how many of its values each is not below."""
    counted = np.zeros(_COUNTED, dtype=np.int64)
    rest = np.empty(len(values), dtype=np.float32)
    n_rest = 0
    for value in values:
        whole = int(value)
        if whole < _COUNTED and whole == value:
            counted[whole] += 1
        else:
            rest[n_rest] = value
            n_rest += 1
    others = rest[:n_rest]
    _sort(others)
    ordered = np.empty(_COUNTED + n_rest, dtype=np.float32)
    up_to = np.empty(_COUNTED + n_rest, dtype=np.int64)
    size = place = whole = other = 0
    while whole < _COUNTED or other < n_rest:
        if whole < _COUNTED and (other == n_rest or whole < others[other]):
            if counted[whole]:
                place += counted[whole]
                ordered[size], up_to[size] = whole, place
                size += 1
            whole += 1
        else:
            place += 1
            ordered[size], up_to[size] = others[other], place
            size += 1
            other += 1
    return ordered[:size], up_to[:size]


@_compiled(nogil=True)
def _quantiles(
    ordered: npt.NDArray[np.float32], up_to: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the quantiles of a cell's values by linear interpolation, in the very steps of numpy.quantile."""
    edges = np.empty(len(shares))
    at, size = 0, up_to[-1]
    for index in range(len(shares)):
        virtual = (size - 1) * shares[index]
        low = int(np.floor(virtual))
        while up_to[at] <= low:
            at += 1
        lower = ordered[at]
        upper = lower
        if low + 1 < size and up_to[at] <= low + 1:
            upper = ordered[at + 1]
        share = virtual - low
        step = np.float64(np.float32(upper - lower))
        edges[index] = lower + step * share if share < 0.5 else upper - step * (1 - share)
    return edges


@_compiled(nogil=True)
def _bins(
    ordered: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the bins on both sides of each distinct value: a tie may fall anywhere between."""
    above, below = np.empty(len(ordered), dtype=np.int64), np.empty(len(ordered), dtype=np.int64)
    left = right = 0
    for index in range(len(ordered)):
        while left < len(edges) and edges[left] < ordered[index]:
            left += 1
        while right < len(edges) and edges[right] <= ordered[index]:
            right += 1
        below[index], above[index] = left, right
    return above, below


@_compiled(nogil=True)
def _drawn(ids: npt.NDArray[np.int32], values: npt.NDArray[np.float32], draw: int) -> npt.NDArray[np.uint64]:
    """Return a random word for each gene of a cell, from the gene and from the cell's content."""
    words = values.view(np.uint32)
    # The content as one word; a sum, so that the order of genes does not matter.
    content = _mix(np.uint64(draw))
    for entry in range(len(ids)):
        content += _mix((np.uint64(ids[entry]) << np.uint64(32)) ^ np.uint64(words[entry]) ^ _GOLDEN)
    draws = np.empty(len(ids), dtype=np.uint64)
    for entry in range(len(ids)):
        draws[entry] = _mix(content ^ (np.uint64(ids[entry]) * _GOLDEN))
    return draws


@_compiled(parallel=True, nogil=True, cache=True)
def _tokenise(
    cells: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]],
    gene_ids: npt.NDArray[np.int32],
    shares: npt.NDArray[np.float64],
    draw: int,
    offsets: npt.NDArray[np.int64],
    genes: npt.NDArray[np.int32],
    bins: npt.NDArray[np.int16],
) -> None:
    """Fill ``genes`` and ``bins`` of every cell, in parallel; ``cells`` are row starts, columns and values."""
    indptr, columns, data = cells
    for cell in numba.prange(len(indptr) - 1):
        start, stop = indptr[cell], indptr[cell + 1]
        if start == stop:
            continue
        values, ids = data[start:stop], gene_ids[columns[start:stop]]
        ordered, up_to = _distinct(values)
        above, below = _bins(ordered, _quantiles(ordered, up_to, shares))
        draws = _drawn(ids, values, draw)
        # A long cell keeps the genes of the smallest draws.
        kept = offsets[cell + 1] - offsets[cell] - 1
        largest = _nth(draws, kept) if kept < stop - start else np.uint64(0xFFFFFFFFFFFFFFFF)
        target = offsets[cell] + 1
        for entry in range(stop - start):
            word = draws[entry]
            if word > largest:
                continue
            index = np.searchsorted(ordered, values[entry])
            share = np.float64(np.int64(word & np.uint64(0xFFFFFFFF))) * 2.0**-32
            genes[target] = ids[entry]
            bins[target] = int(np.ceil(share * (below[index] - above[index]) + above[index]))
            target += 1

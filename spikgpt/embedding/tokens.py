"""Tokens of cells for scGPT: one token for each expressed gene, with its quantile bin in the cell.

The scgpt package draws random numbers. Here these numbers have the same distributions, but are a hash of the gene and
the counts of the cell. So the tokens of a cell do not depend on other cells, the order of genes, or the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.kernels.jit import jit

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Tokens:
    """Tokens of n cells, one cell after the other.

    Cell c has the vocabulary ids ``genes[offsets[c]:offsets[c + 1]]`` and the values ``bins`` at the same positions.
    The first token is ``<cls>``, with the padding value.
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
        """Return padded genes and bins of the given cells, both of shape (cells, length of the longest cell)."""
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
    """Return the tokens of cells; cells with equal values get equal tokens.

    Parameters
    ----------
    values
        Counts or other values that are not negative, shape (n, G); 0 means that the gene is absent.
    gene_ids
        Vocabulary id of each column, shape (G,), ascending.
    cls_id
        Vocabulary id of ``<cls>``.
    pad_value
        Value of ``<cls>``.
    n_bins
        Number of bins, including the bin of absent genes.
    max_length
        Largest number of tokens of a cell, including ``<cls>``. If a cell has more genes, a random subset is used.
    draw
        Seed of the random choices: bins of tied values, and genes of long cells. Training uses another seed in every
        epoch.
    """
    lengths = np.minimum(np.diff(values.indptr), max_length - 1) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    genes, bins = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1], dtype=np.int16)
    data = np.ascontiguousarray(values.data, dtype=np.float32)
    genes[offsets[:-1]], bins[offsets[:-1]] = cls_id, pad_value
    cells = values.indptr.astype(np.int64), values.indices, data
    _tokenise(cells, gene_ids.astype(np.int32), np.linspace(0, 1, n_bins - 1), draw, offsets, genes, bins)
    return Tokens(offsets, genes, bins)


@jit(cache=False)
def _mix(word: np.uint64) -> np.uint64:
    """Scramble a 64-bit word (the finaliser of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


@jit()
def _fill(
    offsets: npt.NDArray[np.int64],
    genes: npt.NDArray[np.int32],
    bins: npt.NDArray[np.int16],
    cells: npt.NDArray[np.int64],
    padded_genes: npt.NDArray[np.int32],
    padded_bins: npt.NDArray[np.int32],
) -> None:
    """Copy the tokens of each of the given cells to the start of a row of the padded arrays."""
    for row in range(len(cells)):
        start = offsets[cells[row]]
        for token in range(offsets[cells[row] + 1] - start):
            padded_genes[row, token] = genes[start + token]
            padded_bins[row, token] = bins[start + token]


@jit(cache=False)
def _quantiles(ordered: npt.NDArray[np.float32], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return quantiles of sorted values by linear interpolation, with the same rounding as numpy.quantile."""
    edges = np.empty(len(shares))
    last = len(ordered) - 1
    for index in range(len(shares)):
        virtual = last * shares[index]
        low = int(np.floor(virtual))
        lower, upper = ordered[low], ordered[min(low + 1, last)]
        share = virtual - low
        step = np.float64(np.float32(upper - lower))
        edges[index] = lower + step * share if share < 0.5 else upper - step * (1 - share)
    return edges


@jit(cache=False)
def _random_words(ids: npt.NDArray[np.int32], values: npt.NDArray[np.float32], draw: int) -> npt.NDArray[np.uint64]:
    """Return a 64-bit random number for each gene of a cell: a hash of the gene and of the cell's genes and values."""
    words = values.view(np.uint32)
    # The hash of the content is a sum, so that the order of genes does not matter.
    content = _mix(np.uint64(draw))
    for entry in range(len(ids)):
        content += _mix((np.uint64(ids[entry]) << np.uint64(32)) ^ np.uint64(words[entry]) ^ _GOLDEN)
    draws = np.empty(len(ids), dtype=np.uint64)
    for entry in range(len(ids)):
        draws[entry] = _mix(content ^ (np.uint64(ids[entry]) * _GOLDEN))
    return draws


@jit(parallel=True)
def _tokenise(
    cells: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]],
    gene_ids: npt.NDArray[np.int32],
    shares: npt.NDArray[np.float64],
    draw: int,
    offsets: npt.NDArray[np.int64],
    genes: npt.NDArray[np.int32],
    bins: npt.NDArray[np.int16],
) -> None:
    """Write the tokens of all cells to ``genes`` and ``bins``; ``cells`` holds row starts, columns and values."""
    indptr, columns, data = cells
    for cell in numba.prange(len(indptr) - 1):
        start, stop = indptr[cell], indptr[cell + 1]
        if start == stop:
            continue
        values, ids = data[start:stop], gene_ids[columns[start:stop]]
        edges = _quantiles(np.sort(values), shares)
        draws = _random_words(ids, values, draw)
        # A long cell keeps the genes with the smallest draws.
        kept = offsets[cell + 1] - offsets[cell] - 1
        largest = np.sort(draws)[kept - 1] if kept < stop - start else np.uint64(0xFFFFFFFFFFFFFFFF)
        target = offsets[cell] + 1
        for entry in range(stop - start):
            word = draws[entry]
            if word > largest:
                continue
            # A value that equals several edges of bins is put into a random bin between these edges.
            below = np.searchsorted(edges, values[entry])
            above = np.searchsorted(edges, values[entry], side="right")
            share = np.float64(np.int64(word & np.uint64(0xFFFFFFFF))) * 2.0**-32
            genes[target] = ids[entry]
            bins[target] = int(np.ceil(share * (below - above) + above))
            target += 1

"""Compiled correlation with the nearest label's profile, and marker excess, for means over a cell and its neighbours.

The NumPy form is ``OODScorer._correlation_and_excess`` in :mod:`spikgpt.scoring.ood_scorer`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.kernels.jit import jit
from spikgpt.types import Rows

Float64 = npt.NDArray[np.float64]


@jit(reordered=True)
def _mean_of_largest(values: Float64, highest: Float64, noise: Float64, top: Float64) -> float:
    """Return the mean of the largest (values - highest) / noise; ``top`` is scratch memory for these numbers."""
    size = len(top)
    for spot in range(size):
        top[spot] = 0.0
    # ``top`` holds the largest numbers so far in ascending order.
    for gene in range(len(values)):
        above = (values[gene] - highest[gene]) / noise[gene]
        if above > top[0]:
            spot = 0
            while spot + 1 < size and top[spot + 1] < above:
                top[spot] = top[spot + 1]
                spot += 1
            top[spot] = above
    total = 0.0
    for spot in range(size):
        total += top[spot]
    return total / size


@jit(reordered=True)
def _best_correlation(values: Float64, weights: Float64, profiles: Float64) -> float:
    """Return the largest weighted correlation of values with a profile; the values are centred in place."""
    centre, length, best = 0.0, 0.0, -np.inf
    for gene in range(len(values)):
        centre += values[gene] * weights[gene]
    for gene in range(len(values)):
        values[gene] -= centre
        length += values[gene] * values[gene] * weights[gene]
    for label in range(len(profiles)):
        profile, product = profiles[label], 0.0
        for gene in range(len(values)):
            product += values[gene] * profile[gene]
        best = max(best, product)
    return best / max(math.sqrt(length), 1e-12)


@jit(reordered=True)
def correlation_and_excess(
    cells: tuple[Any, Any, Any],
    sample: tuple[Any, Any, Any],
    neighbours: Rows,
    shares: Float64,
    effects: Float64,
    weights: Float64,
    profiles: Float64,
    highest: Float64,
    noise: Float64,
    excess_genes: int,
    correlation: Float64,
    excess: Float64,
) -> None:
    """Write the largest correlation with a label's profile, and the marker excess, of n cells.

    Parameters
    ----------
    cells, sample
        Data, indices and indptr of the log expression of the cells, (n, G), and of the sample, (k, G), in CSR form.
    neighbours
        Positions of the neighbours of each cell in the sample, (n, 14).
    shares, effects
        Share of each batch among a cell and its neighbours, (n, B), and batch effects, (B, G).
    weights
        Weight of each gene in the correlation, (G,), with sum 1.
    profiles
        Standardised profiles of the labels times the root of the weights, (L, G).
    highest, noise
        Largest of the labels' means of each gene, and standard error of the mean over a cell and its neighbours, each
        of shape (G,).
    excess_genes
        Number of genes of the marker excess.
    correlation, excess
        Arrays that the results are written to, each of shape (n,).
    """
    data, indices, indptr = cells
    sample_data, sample_indices, sample_indptr = sample
    genes = len(highest)
    mean, top = np.empty(genes), np.empty(excess_genes)
    share = 1.0 / (1 + neighbours.shape[1])
    for row in range(len(neighbours)):
        for gene in range(genes):
            mean[gene] = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            mean[indices[at]] += np.float64(data[at])
        for turn in range(neighbours.shape[1]):
            cell = neighbours[row, turn]
            values = sample_data[sample_indptr[cell] : sample_indptr[cell + 1]]
            columns = sample_indices[sample_indptr[cell] : sample_indptr[cell + 1]]
            for at in range(len(values)):
                mean[columns[at]] += np.float64(values[at])
        for gene in range(genes):
            mean[gene] *= share
        for batch in range(len(effects)):
            if shares[row, batch] > 0:
                effect, part = effects[batch], shares[row, batch]
                for gene in range(genes):
                    mean[gene] -= part * effect[gene]
        excess[row] = math.log1p(_mean_of_largest(mean, highest, noise, top))
        correlation[row] = _best_correlation(mean, weights, profiles)

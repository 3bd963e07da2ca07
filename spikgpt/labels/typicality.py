"""Typicality: how well a cell agrees with a label of the reference, seen among the cells of its own query.

In another study all cells lie farther from the reference. So typicality is compared within a query, and within each of
its batches, by :mod:`spikgpt.labels.ood`. The typicality of a cell is its familiarity less its marker excess (novelty);
cells of one type should be alike, so it is averaged with that of the cell's neighbours, twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.labels.familiarity import Evidence
from spikgpt.types import Floats, Integers, Rows

# A label needs so many cells in a batch for a level of its own.
CELLS_FOR_LEVEL = 10
# Novelty counts by how far it lies from that of most labels, above it up to this: a treatment too switches genes on.
LARGEST_NOVELTY = 0.5
# Share of a cell's typicality that its neighbours make up, each time.
NEIGHBOUR_SHARE = 0.8


@dataclass(frozen=True)
class Typicality:
    """The typicality of a sample of k cells, among which the neighbours of any cell of the query are sought.

    Attributes
    ----------
    novelty
        Novelty of most labels in each batch, shape (B,); 0 without expression.
    alone, averaged
        The sample's typicality, and the same averaged with neighbours once, each of shape (k,).
    """

    novelty: npt.NDArray[np.float64]
    alone: npt.NDArray[np.float64]
    averaged: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, evidence: Evidence, best: Integers, batches: Integers, near: Rows) -> Self:
        """Learn from a sample of a query's cells.

        Parameters
        ----------
        evidence
            Their familiarity and novelty, each of shape (k,).
        best, batches
            Index of the most probable label and of the batch of each, shape (k,).
        near
            Positions of their neighbours in the sample, shape (k, neighbours).
        """
        novelty = np.zeros(int(batches.max(initial=0)) + 1)
        if evidence.novelty is not None:
            for batch in np.unique(batches):
                own = batches == batch
                novelty[batch] = _middle(evidence.novelty[own], best[own])
        alone = _typicality(evidence, novelty[batches])
        return cls(novelty, alone, _average(alone, alone, near))

    def of(self, evidence: Evidence, batches: Integers, near: Rows) -> npt.NDArray[np.float64]:
        """Return the typicality of cells, shape (n,).

        Parameters
        ----------
        evidence, batches, near
            As for :meth:`fit`; neighbours are among the sample.
        """
        once = _average(_typicality(evidence, self.novelty[batches]), self.alone, near)
        return _average(once, self.averaged, near)


def _typicality(evidence: Evidence, novelty: Floats) -> npt.NDArray[np.float64]:
    """Return familiarity less what is novel beyond the novelty of the cell's batch, shape (n,)."""
    if evidence.novelty is None:
        return evidence.familiarity
    return np.asarray(evidence.familiarity - np.minimum(evidence.novelty - novelty, LARGEST_NOVELTY))


def _average(own: Floats, sample: Floats, near: Rows) -> npt.NDArray[np.float64]:
    """Return the values of cells, averaged with those of their neighbours in the sample."""
    if not near.shape[1]:
        return np.asarray(own)
    return np.asarray((1 - NEIGHBOUR_SHARE) * own + NEIGHBOUR_SHARE * sample[near].mean(axis=1))


def _middle(values: Floats, best: Integers) -> float:
    """Return the median over labels of their median: each label with enough cells has one vote."""
    enough = np.flatnonzero(np.bincount(best) >= CELLS_FOR_LEVEL)
    return float(np.median([np.median(values[best == label]) for label in enough] if len(enough) else values))

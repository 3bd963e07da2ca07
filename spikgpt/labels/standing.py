"""How a cell stands among the cells of its own query: what tells a type that the reference lacks from another study.

In another study all cells lie farther from the reference, those of some types more than others. So familiarity is not
held against the reference's own cells here, but against what the query's cells of the same label reach: a label whose
cells all lie far away has probably been changed by the study, or a treatment; cells that lie far below the best of
their label are probably of another type. In between, ``LEVEL_SHARE`` of what sets a label apart from the other labels
counts against its cells.

Where cells of another type outnumber those of the label that they are given, the label's level follows them. So a label
whose cells fall into two separate groups, of which the lower one is the larger, has that one stand apart.

Cells of one type should stand alike, so each cell's standing is averaged with that of its neighbours, twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.labels.familiarity import Evidence
from spikgpt.types import Floats, Integers, Rows

# A label's level is what this share of its cells does not exceed, for labels with so many cells in the sample.
LEVEL, CELLS_FOR_LEVEL = 0.9, 10
LEVEL_SHARE = 0.35
# Novelty counts by how far it lies from that of most labels, above it up to this: a treatment too switches genes on.
LARGEST_NOVELTY = 0.5
# Share of a cell's standing that its neighbours make up, each time.
NEIGHBOUR_SHARE = 0.8
# A cell with a lower standing may be Unknown.
LEAST_STANDING = -1.2
# When the cells of a label are two groups: so many cells, so many of them in the upper group, and means so far apart,
# also as a multiple of the deviation within groups.
CELLS_FOR_GROUPS, CELLS_OF_GROUP = 20, 5
APART, DEVIATIONS_APART = 0.6, 3.5


@dataclass(frozen=True)
class Standing:
    """What tells how cells of one query stand, learned from a sample of k of them.

    Attributes
    ----------
    levels
        What the cells of each label are expected to reach, shape (L,).
    novelty
        Novelty of most labels; 0 without expression.
    alone, averaged
        The sample's scores, and those averaged with neighbours once, each of shape (k,).
    """

    levels: npt.NDArray[np.float64]
    novelty: float
    alone: npt.NDArray[np.float64]
    averaged: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, evidence: Evidence, best: Integers, near: Rows, n_labels: int) -> Self:
        """Learn from a sample of a query's cells.

        Parameters
        ----------
        evidence
            Their familiarity and novelty, each of shape (k,).
        best
            Index of the most probable label of each, shape (k,).
        near
            Positions of their neighbours in the sample, shape (k, neighbours).
        """
        novelty = 0.0
        if evidence.novelty is not None:
            novelty = _middle(_by_label(evidence.novelty, best, n_labels, 0.5))
        alone = _score(evidence, novelty)
        averaged = _average(alone, alone, near)
        twice = _average(averaged, averaged, near)
        reached = _by_label(twice, best, n_labels, LEVEL)
        middle = _middle(reached)
        levels = np.where(np.isnan(reached), middle, LEVEL_SHARE * middle + (1 - LEVEL_SHARE) * reached)
        between = np.array([_between_groups(twice[best == label]) for label in range(n_labels)])
        levels = np.fmax(levels, between - LEAST_STANDING)
        return cls(levels, novelty, alone, averaged)

    def of(self, evidence: Evidence, best: Integers, near: Rows) -> npt.NDArray[np.float64]:
        """Return the standing of cells, shape (n,): about 0 for the best of a label, lower for those apart from it.

        Parameters
        ----------
        evidence, best, near
            As for :meth:`fit`; neighbours are among the sample.
        """
        once = _average(_score(evidence, self.novelty), self.alone, near)
        return np.asarray(_average(once, self.averaged, near) - self.levels[best])


def _score(evidence: Evidence, novelty: float) -> npt.NDArray[np.float64]:
    """Return familiarity, less what is novel."""
    if evidence.novelty is None:
        return evidence.familiarity
    return np.asarray(evidence.familiarity - np.minimum(evidence.novelty - novelty, LARGEST_NOVELTY))


def _average(own: Floats, sample: Floats, near: Rows) -> npt.NDArray[np.float64]:
    """Return the scores of cells, averaged with those of their neighbours in the sample."""
    if not near.shape[1]:
        return np.asarray(own)
    return np.asarray((1 - NEIGHBOUR_SHARE) * own + NEIGHBOUR_SHARE * sample[near].mean(axis=1))


def _by_label(scores: Floats, best: Integers, n_labels: int, share: float) -> npt.NDArray[np.float64]:
    """Return a quantile of the scores of each label, shape (L,); NaN for labels of few cells, if others have enough."""
    enough = np.bincount(best, minlength=n_labels) >= CELLS_FOR_LEVEL
    if not enough.any():
        return np.full(n_labels, np.quantile(scores, share) if len(scores) else 0.0)
    return np.array(
        [np.quantile(scores[best == label], share) if enough[label] else np.nan for label in range(n_labels)]
    )


def _between_groups(scores: Floats) -> float:
    """Return where the scores of a label's cells fall into two groups, if they do and the lower is the larger, or NaN.

    The split is the one with the least variance within groups (Otsu, 1979).
    """
    n = len(scores)
    if n < CELLS_FOR_GROUPS:
        return np.nan
    ordered = np.sort(scores)
    below = np.arange(1, n)
    sums = np.cumsum(ordered)
    gaps = (sums[-1] - sums[:-1]) / (n - below) - sums[:-1] / below
    between = gaps**2 * below * (n - below) / n**2
    best = int(between.argmax())
    within = np.sqrt(max(float(ordered.var() - between[best]), 0.0))
    larger = 2 * below[best] >= n and n - below[best] >= CELLS_OF_GROUP
    if not larger or gaps[best] < max(APART, DEVIATIONS_APART * within):
        return np.nan
    return float(ordered[best] + ordered[best + 1]) / 2


def _middle(values: Floats) -> float:
    """Return the median over the labels that have a value: each has one vote, however many cells it has."""
    return float(np.nanmedian(values))

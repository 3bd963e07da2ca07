"""Infer the batches of a query from its cells, if no column of obs names batches.

A batch effect moves the cells of all labels in one direction. So a query has two batches if there is a direction in its
principal components with two properties. First, the cells of most labels form two groups along the direction. Second,
the labels differ from each other in the same way in the two groups. A cell type that the reference lacks has at most
one of these properties. Either its cells get one label, and only this label is split. Or its cells get several labels,
which then differ little from each other in the group of these cells.
Each batch is split again in the same way. Each cell of a label without two groups goes to the batch with the nearer
batch effect.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spikgpt.cells.obs import CELLS_OF_BATCH
from spikgpt.constants import CONSTANTS
from spikgpt.scoring.ood_rule import split_point
from spikgpt.types import Bools, Floats, Integers, Rows

BATCHES, GROUP_CELLS = CONSTANTS.batches, CONSTANTS.ood_rule.group_cells


class _Split(NamedTuple):
    """A direction along which the cells of some labels form two groups.

    ``direction`` has shape (D,). ``cuts`` maps the index of a label to the position between its two groups.
    ``difference``, shape (D,), is the sum over labels of the unit vector from their lower to their upper group. Its
    length grows with the number of labels that fall into two groups, and with the agreement of their differences.
    """

    direction: npt.NDArray[np.float64]
    cuts: dict[int, float]
    difference: npt.NDArray[np.float64]

    @property
    def length(self) -> float:
        """Return the length of ``difference``: the number of labels with two groups if all differ in the same way."""
        return float(np.linalg.norm(self.difference))


def infer_batches(points: Floats, best: Integers, neighbours: Rows, profiles: Floats) -> npt.NDArray[np.int64]:
    """Return the index of the batch of each cell, shape (k,); 0 for all cells if there is one batch.

    Parameters
    ----------
    points
        Coordinates of the cells on the query's principal components, shape (k, D).
    best
        Index of the most probable label of each cell, shape (k,).
    neighbours
        Positions of the neighbours of each cell, shape (k, 14).
    profiles
        Coordinates of the mean expression of the reference's labels, shape (L, D).
    """
    averaged = (points + points[neighbours].sum(axis=1)) / (1 + neighbours.shape[1])  # (k, D)
    codes, queue = np.zeros(len(points), dtype=np.int64), [0]
    while queue and codes.max(initial=0) + 1 < BATCHES.largest_number:
        code = queue.pop(0)
        rows = np.flatnonzero(codes == code)
        upper = _two_batches(averaged[rows], best[rows], profiles)
        if upper is not None:
            new = int(codes.max()) + 1
            codes[rows[upper]] = new
            queue += [code, new]
    return codes


def _two_batches(points: Floats, best: Integers, profiles: Floats) -> Bools | None:
    """Return True for the cells of the second of two batches, shape (n,), or None if there is one batch."""
    enough = np.flatnonzero(np.bincount(best, minlength=len(profiles)) >= 2 * GROUP_CELLS)
    if len(enough) < BATCHES.least_labels:
        return None
    groups = {int(label): points[best == label] for label in enough}
    split = _best_split(groups)
    if len(split.cuts) < BATCHES.least_labels or split.length < BATCHES.least_length * len(enough):
        return None
    upper, labels = np.zeros(len(points), dtype=bool), list(split.cuts)
    for label, cut in split.cuts.items():
        upper[best == label] = groups[label] @ split.direction > cut
    # The mean of each label in either batch, (labels, D).
    means = [np.stack([points[(best == label) & part].mean(axis=0) for label in labels]) for part in (~upper, upper)]
    if _concordance(*means) < BATCHES.least_concordance:
        return None
    # Effects of the two batches, each the median over labels of the difference from the reference.
    first, second = (np.median(of_labels - profiles[labels], axis=0) for of_labels in means)
    apart = second - first
    ungrouped = ~np.isin(best, labels)
    shifts = points[ungrouped] - profiles[best[ungrouped]] - first
    upper[ungrouped] = shifts @ apart > apart @ apart / 2
    return upper if min(upper.sum(), (~upper).sum()) >= CELLS_OF_BATCH else None


def _concordance(first: Floats, second: Floats) -> float:
    """Return Lin's concordance of the differences between labels in two batches, from label means of shape (L, D).

    In each batch the mean over labels is subtracted from the mean of each label. The concordance of the two sets of
    deviations is 1 if the sets are equal, and about 0 if one batch holds a single cell type.
    """
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    return float(2 * (first * second).sum() / max((first**2).sum() + (second**2).sum(), 1e-12))


def _best_split(groups: dict[int, Floats]) -> _Split:
    """Return the direction along which the cells of most labels fall into two groups that differ in the same way."""
    covariances = []
    for points in groups.values():
        deviations = points - points.mean(axis=0)
        covariance = deviations.T @ deviations
        covariances.append(covariance / max(float(np.trace(covariance)), 1e-12))
    _, components = np.linalg.eigh(np.mean(covariances, axis=0))
    splits = []
    for component in components[:, ::-1].T[: BATCHES.directions]:
        splits.append(_split_along(component, groups))
        for _ in range(BATCHES.rounds):
            if splits[-1].length < 1e-6:
                break
            splits.append(_split_along(splits[-1].difference / splits[-1].length, groups))
    return max(splits, key=lambda split: split.length)


def _split_along(direction: Floats, groups: dict[int, Floats]) -> _Split:
    """Return the labels whose cells fall into two groups along a direction, and whose groups differ in the same way."""
    cuts, differences = {}, {}
    for label, points in groups.items():
        positions = points @ direction
        cut = split_point(positions, least_gap=0.0)
        if np.isfinite(cut):
            upper = positions > cut
            difference = points[upper].mean(axis=0) - points[~upper].mean(axis=0)
            cuts[label], differences[label] = cut, difference / np.linalg.norm(difference)
    total = np.sum([np.zeros_like(direction), *differences.values()], axis=0)
    least = BATCHES.least_agreement * np.linalg.norm(total)
    agreeing = {label: cut for label, cut in cuts.items() if differences[label] @ total >= least}
    return _Split(np.asarray(direction), agreeing, total)

"""Split labelled cells into a training part and a held-out part."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from spikgpt.errors import LabelsError, with_noun
from spikgpt.sampling import rows_by_label
from spikgpt.scoring.thresholds import DEFAULT_UNKNOWN_RATE, conformal_rank
from spikgpt.training.cells import LabelledCells
from spikgpt.training.names import first_names
from spikgpt.types import Integers, Strings

# Largest number of splits of a cross-validation. With more donors or batches, a split holds out several of these.
MOST_FOLDS = 5
# Largest number of donors or batches for which splits that hold out a single donor or batch are tried too. With more
# donors or batches, a single one has too few cells to measure the accuracy.
FEW_GROUPS = 10
# Number of cells of a label that suffices to measure the label's accuracy.
ENOUGH_CELLS = 20


def hold_out(
    labels: Strings, groups: Strings | None = None, *, share: float = 0.3, seed: int = 0
) -> tuple[Integers, Integers]:
    """Split cells into a training part and a held-out part.

    Parameters
    ----------
    labels
        Label of each cell, shape (n,).
    groups
        Donor or batch of each cell, shape (n,): whole groups are held out. Without groups the split is stratified by
        label.
    share
        Share of the cells to hold out. With groups, the held-out groups depend on the rarest labels instead, and the
        share lies between 10% and 50% where possible.

    Returns
    -------
    Sorted indices of the training cells and of the held-out cells. At least 2 labels are in the training part, and at
    least one label is in both parts.

    Raises
    ------
    LabelsError
        When there is only one group, no label is in two groups, or a label has fewer than 2 cells.
    """
    if groups is None:
        names, counts = np.unique(labels, return_counts=True)
        if (counts < 2).any():
            msg = (
                f"{', '.join(names[counts < 2])}: a single labelled cell, which cannot be both trained on and held "
                "out. Remove these labels or merge them with others."
            )
            raise LabelsError(msg)
        # Both parts must have at least one cell of every label.
        size = max(round(share * len(labels)), len(names))
        return _stratified(labels, size, seed)
    names = np.unique(groups)
    if len(names) < 2:
        msg = f"All cells are of one donor or batch, {str(groups[0])!r}, so none can be held out. Omit the batch key."
        raise LabelsError(msg)
    if not can_hold_out(labels, groups):
        pairs = [
            f"{label} in {group}" for label, group in sorted({*zip(labels.tolist(), groups.tolist(), strict=True)})
        ]
        msg = (
            f"Each label is in one donor or batch alone ({first_names(pairs)}), "
            "so none can be both learned and held out. Leave the batch key out, or name another column."
        )
        raise LabelsError(msg)
    candidates = list(folds(labels, groups, round(1 / share), seed=seed))
    # One of two groups that share a label can always be held out.
    single = folds(labels, groups, len(names)) if len(names) <= FEW_GROUPS or not candidates else ()
    return max(chain(candidates, single), key=lambda split: _rank(labels, split[0], split[1], share))


def folds(
    labels: Strings, groups: Strings, count: int = MOST_FOLDS, *, seed: int = 0
) -> Iterator[tuple[Integers, Integers]]:
    """Yield the indices of the training and held-out cells of each split; together the splits hold out each group once.

    A split holds out one group if there are at most ``count`` groups. Otherwise a split holds out several groups, and
    all splits have similar shares of the labels. A split is left out if no label is both learned and measured.
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) > count:
        from sklearn.model_selection import StratifiedGroupKFold  # imported here, as the import takes half a second

        several = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        splits = ((np.sort(train), np.sort(held_out)) for train, held_out in several.split(labels, labels, groups))
    else:
        splits = ((np.flatnonzero(index != group), np.flatnonzero(index == group)) for group in range(len(names)))
    yield from (split for split in splits if _usable(labels, *split))


def can_hold_out(labels: Strings, groups: Strings) -> bool:
    """Return True if a whole group can be held out, because a label in two groups is both learned and measured."""
    if len(np.unique(groups)) < 2 or len(np.unique(labels)) < 2:
        return False
    pairs = np.unique(np.stack([labels, groups], axis=1), axis=0)  # (pairs, 2)
    return bool((np.unique(pairs[:, 0], return_counts=True)[1] > 1).any())


def training_notes(cells: LabelledCells, train: Integers, held_out: Integers, *, refit: bool) -> list[str]:
    """Return sentences on cells that are left out of a training, and on labels whose accuracy is not measured.

    Parameters
    ----------
    train, held_out
        Indices of the training and the held-out cells.
    refit
        True if the reference is finally trained again on all cells.
    """
    notes, labels = [], cells.labels
    if cells.dropped:
        few = first_names([f"{label} ({count})" for label, count in cells.dropped.items()])
        notes.append(f"Labels left out, with too few cells to learn from: {few}.")
    if cells.unlabelled:
        notes.append(
            f"{with_noun(cells.unlabelled, 'cell has no label and is', 'cells have no label and are')} left out."
        )
    learned, measured = set(labels[train].tolist()), set(labels[held_out].tolist())
    if only := sorted(measured - learned):
        end = "their accuracy is not measured" if refit else "the reference will lack them"
        notes.append(f"All cells of {first_names(only)} are held out, so {end}. Try another seed, or no batch key.")
    if only := sorted(learned - measured):
        notes.append(f"No cell of {first_names(only)} is held out, so the accuracy of these labels is not measured.")
    known = int(np.isin(labels[held_out], list(learned)).sum())
    if not conformal_rank(known, DEFAULT_UNKNOWN_RATE):
        needed = next(cells for cells in range(known, 10**3) if conformal_rank(cells, DEFAULT_UNKNOWN_RATE))
        notes.append(
            f"Only {with_noun(known, 'cell of known labels is', 'cells of known labels are')} held out; a cut-off for "
            f"Unknown needs at least {needed}. By default no cell will be Unknown. Add cells."
        )
    return notes


def _stratified(labels: Strings, size: int, seed: int) -> tuple[Integers, Integers]:
    """Split cells into sorted training cells and ``size`` sorted held-out cells, with the same shares of the labels.

    The split is that of scikit-learn's ``train_test_split``, which takes half a second to import.
    """
    rows, random = list(rows_by_label(labels).values()), np.random.RandomState(seed)
    counts = np.array([len(some) for some in rows])
    trained = _apportioned(counts, len(labels) - size, random)
    held_out = _apportioned(counts - trained, size, random)
    mixed = [some[random.permutation(len(some))] for some in rows]
    parts = zip(mixed, trained, held_out, strict=True)
    first, second = zip(*((some[:own], some[own : own + other]) for some, own, other in parts), strict=True)
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _apportioned(counts: Integers, total: int, random: np.random.RandomState) -> Integers:
    """Return numbers of cells of each label, shape (L,), in proportion to ``counts``, shape (L,), with sum ``total``.

    The largest remainders are rounded up. Among equal remainders, the labels are chosen at random.
    """
    exact = counts / counts.sum() * total
    numbers = np.floor(exact)
    missing, remainders = int(total - numbers.sum()), exact - numbers
    for remainder in np.unique(remainders)[::-1]:
        if not missing:
            break
        equal = np.flatnonzero(remainders == remainder)
        chosen = random.choice(equal, size=min(len(equal), missing), replace=False)
        numbers[chosen] += 1
        missing -= len(chosen)
    return np.asarray(numbers.astype(np.int64))


def _usable(labels: Strings, train: Integers, held_out: Integers) -> bool:
    """Return True if the training part has at least two labels, and the held-out part at least one of these labels."""
    learned = np.unique(labels[train])
    return len(learned) > 1 and bool(np.isin(labels[held_out], learned).any())


def _rank(labels: Strings, train: Integers, held_out: Integers, share: float) -> tuple[Any, ...]:
    """Return the rank of a split; the best split has the largest rank.

    The rank prefers, in this order: splits with at most half of the cells held out, the largest number of labels that
    can be learned, and splits with at least a tenth of the cells held out. Then the rarest label decides. The smaller
    of its numbers of training cells and held-out cells should be large. Numbers above 20 count as 20. The last
    criterion is a share of held-out cells near ``share``.
    """
    names, index = np.unique(labels, return_inverse=True)
    learned, measured = (np.bincount(index[rows], minlength=len(names)) for rows in (train, held_out))
    fewest = np.sort(np.minimum(np.minimum(learned, measured), ENOUGH_CELLS)).tolist()
    held_share = len(held_out) / len(labels)
    return held_share <= 0.5, int((learned > 0).sum()), held_share >= 0.1, fewest, -abs(held_share - share)

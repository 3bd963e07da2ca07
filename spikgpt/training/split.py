"""Which labelled cells are learned from and which are held out, and what is said of both before the work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import normalize

import numpy as np
from anndata import AnnData
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from spikgpt.cells.obs import labels_of
from spikgpt.errors import LabelsError, listed
from spikgpt.scoring.label_map import SHOWN, LabelMap
from spikgpt.scoring.thresholds import DEFAULT_UNKNOWN_RATE, conformal_rank
from spikgpt.types import Integers, Strings


def batches_of(adata: AnnData, label_key: str, batch_key: str | None) -> Strings | None:
    """Return the donor or batch of each cell, shape (n,), None without a ``batch_key``.

    Raises
    ------
    LabelsError
        When the column holds no donors or batches, or a cell has none.
    """
    if batch_key is None:
        return None
    if batch_key == label_key:
        msg = f"obs[{batch_key!r}] is both the label key and the batch key. Name the column of donors or batches."
        raise LabelsError(msg)
    distinct = adata.obs[batch_key].nunique() if batch_key in adata.obs else 0
    if 2 * distinct > adata.n_obs:
        msg = (
            f"obs[{batch_key!r}] holds {distinct} different values in {adata.n_obs} labelled cells; expected donors or "
            "batches of several cells each. Name another column, or leave the batch key out."
        )
        raise LabelsError(msg)
    groups, stated = labels_of(adata, batch_key)
    if not stated.all():
        missing = int((~stated).sum())
        msg = f"{missing} cells have no value in obs[{batch_key!r}]; fill them in, or leave the batch key out."
        raise LabelsError(msg)
    return groups


def check_names(labels: LabelMap) -> None:
    """Refuse labels that differ only in case, spaces and underscores; the same in width is refused by LabelMap."""
    by_plain: dict[str, str] = {}
    for name in labels.names:
        plain = re.sub(r"[\s_]+", " ", normalize("NFKC", name).casefold())
        if (other := by_plain.setdefault(plain, name)) != name:
            msg = (
                f"{other!r} and {name!r} differ only in case, spaces or underscores, so they are one label; rename one."
            )
            raise LabelsError(msg)


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
        Share of the cells to hold out; with groups, as near to it as whole groups of similar composition allow.

    Returns
    -------
    Sorted indices of the training and the held-out cells. At least 2 labels are in the training part, and at least one
    of these labels is in the held-out part.

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
        # At least one cell of every label on both sides.
        size = max(round(share * len(labels)), len(names))
        train, held = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
        return np.sort(train), np.sort(held)
    names = np.unique(groups)
    if len(names) < 2:
        only = str(groups[0])
        msg = f"All cells are of one donor or batch, {only!r}, so none can be held out. Leave the batch key out."
        raise LabelsError(msg)
    if not can_hold_out(labels, groups):
        pairs = sorted({*zip(labels.tolist(), groups.tolist(), strict=True)})
        named = _shown([f"{label} in {group}" for label, group in pairs])
        msg = (
            f"Each label is in one donor or batch alone ({named}), so none can be both learned and held out. Leave the "
            "batch key out, or name another column."
        )
        raise LabelsError(msg)
    folds = StratifiedGroupKFold(min(len(names), round(1 / share)), shuffle=True, random_state=seed)
    splits = [split for split in folds.split(labels, labels, groups) if _usable(labels, *split)]
    if not splits:
        alone = ((np.flatnonzero(groups != name), np.flatnonzero(groups == name)) for name in names)
        # One of two groups that share a label can always be held out.
        splits = [split for split in alone if _usable(labels, *split)]
    train, held = min(splits, key=lambda split: abs(len(split[1]) / len(labels) - share))
    return np.sort(train), np.sort(held)


def training_notes(
    labels: Strings, train: Integers, held: Integers, *, dropped: dict[str, int], unlabelled: int, refit: bool
) -> list[str]:
    """Return whole sentences on cells that are left out of a training, and on labels that cannot be measured.

    Parameters
    ----------
    labels
        Label of each cell that is used, shape (n,).
    train, held
        Indices of the training and the held-out cells.
    dropped
        Labels that are left out, with their cells.
    unlabelled
        Number of cells without a label.
    refit
        Whether the reference is trained again on all cells in the end.
    """
    notes = []
    if dropped:
        notes.append(f"Left out, as they have too few cells to learn from: {_named(dropped)}.")
    if unlabelled:
        notes.append(f"{unlabelled} cells have no label and are left out.")
    learned, measured = set(labels[train].tolist()), set(labels[held].tolist())
    if only := sorted(measured - learned):
        end = "their accuracy is not measured" if refit else "the reference will lack them"
        notes.append(f"All cells of {_shown(only)} are held out, so {end}. Try another seed, or no batch key.")
    if only := sorted(learned - measured):
        notes.append(f"No cell of {_shown(only)} is held out, so the accuracy of these labels is not measured.")
    known = int(np.isin(labels[held], list(learned)).sum())
    if not conformal_rank(known, DEFAULT_UNKNOWN_RATE):
        needed = next(cells for cells in range(known, 10**3) if conformal_rank(cells, DEFAULT_UNKNOWN_RATE))
        notes.append(
            f"Only {known} cells of known labels are held out; at least {needed} are needed to set when a cell is "
            "Unknown. By default no cell will be Unknown: add cells."
        )
    return notes


def can_hold_out(labels: Strings, groups: Strings) -> bool:
    """Return whether a whole group can be held out: a label must be in two groups to be both learned and measured."""
    if len(np.unique(groups)) < 2 or len(np.unique(labels)) < 2:
        return False
    pairs = np.unique(np.stack([labels, groups], axis=1), axis=0)  # (pairs, 2)
    return bool((np.unique(pairs[:, 0], return_counts=True)[1] > 1).any())


def _usable(labels: Strings, train: Integers, held: Integers) -> bool:
    """Return whether a part has two labels to learn from, and the other part one of them to measure."""
    learned = np.unique(labels[train])
    return len(learned) > 1 and bool(np.isin(labels[held], learned).any())


def _named(counts: dict[str, int]) -> str:
    return _shown([f"{label} ({cells})" for label, cells in counts.items()])


def _shown(names: Sequence[str]) -> str:
    """Return names as text, the first few where there are many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return listed(names[:SHOWN]) + more

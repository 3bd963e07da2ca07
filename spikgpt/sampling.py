"""Samples of cells that depend on the values of the cells and not on their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.types import Strings

# Largest number of cells in the sample of a query. Neighbours are searched in the sample alone, so the time grows with
# the number of cells, not with its square.
LARGEST_SAMPLE = 20_000
# Number of cells to which genes and components of a reference are fitted, and smallest number of these cells per label.
LARGEST_FIT, CELLS_OF_RARE = 50_000, 300
# Largest number of keys that are sorted at a time.
LARGEST_SORT = 50_000_000


def content_keys(values: sparse.csr_matrix | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a pseudo-random key of each cell, shape (n,), that depends only on its values, shape (n, d)."""
    return np.asarray(values @ np.random.default_rng(0).standard_normal(values.shape[1]), dtype=np.float64)


def sample_of(keys: npt.NDArray[np.float64], limit: int = LARGEST_SAMPLE) -> npt.NDArray[np.int64]:
    """Return the row numbers, ascending, of a sample of at most ``limit`` of n cells.

    The same cells are chosen in any order of the n cells.

    Parameters
    ----------
    keys
        Keys of :func:`content_keys`, shape (n,). The sample is spread evenly over the sorted keys.
    """
    step = max(1, -(-len(keys) // limit))
    if len(keys) <= LARGEST_SORT:
        return np.sort(np.argsort(keys, kind="stable")[step // 2 :: step])
    # Parts of the range of keys are sorted one by one, as a sort of all keys takes three times their memory.
    some = np.sort(keys[::1000])
    bounds = some[:: -(-len(some) * LARGEST_SORT // len(keys))][1:]
    first, chosen = step // 2, []
    for low, high in zip([-np.inf, *bounds], [*bounds, np.inf], strict=True):
        rows = np.flatnonzero((keys >= low) & (keys < high))
        chosen.append(rows[np.argsort(keys[rows], kind="stable")[first::step]])
        first = (first - len(rows)) % step
    return np.sort(np.concatenate(chosen))


def rows_by_label(labels: Strings) -> dict[str, npt.NDArray[np.int64]]:
    """Return the row numbers of the cells of each label, from the label of each cell, shape (n,).

    Labels and rows are in ascending order. One sort of all cells is fast for thousands of labels; one search per label
    would take minutes.
    """
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts))[:-1]
    return dict(zip(names.tolist(), parts, strict=True))


def stratified(labels: Strings) -> npt.NDArray[np.int64]:
    """Return the row numbers, ascending, of a sample of about 50,000 of n cells, from their labels, shape (n,).

    The sample has the same share of the cells of each label, evenly spread over the rows. At least 300 cells of a rare
    label are kept, or all its cells if there are fewer.
    """
    step = -(-len(labels) // LARGEST_FIT)
    if step <= 1:
        return np.arange(len(labels))
    rows = list(rows_by_label(labels).values())
    steps = [max(1, min(step, len(some) // CELLS_OF_RARE)) for some in rows]
    return np.sort(np.concatenate([some[::every] for some, every in zip(rows, steps, strict=True)]))

"""Samples of cells that depend on what the cells hold, not on the order that they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.types import Strings

# What is learned of a query is learned from at most this many of its cells, and neighbours are sought among them: so
# the time grows with the number of cells, not its square, and the memory hardly.
LARGEST_SAMPLE = 20_000
# Which genes tell labels apart, and their components, are learned from about as many cells of a reference, and of each
# label from at least so many if it has them.
LARGEST_FIT, CELLS_OF_RARE = 50_000, 300


def content_keys(values: sparse.csr_matrix | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a pseudo-random key per cell, computed from its values only: (n, d) to (n,)."""
    return np.asarray(values @ np.random.default_rng(0).standard_normal(values.shape[1]), dtype=np.float64)


def sample_of(keys: npt.NDArray[np.float64], limit: int = LARGEST_SAMPLE) -> npt.NDArray[np.int64]:
    """Return at most ``limit`` of n cells, ascending: a sample that does not depend on their order.

    Parameters
    ----------
    keys
        The cells' :func:`content_keys`, shape (n,); the sample is spread evenly over them.
    """
    step = max(1, -(-len(keys) // limit))
    return np.sort(np.argsort(keys, kind="stable")[step // 2 :: step])


def rows_by_label(labels: Strings) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rows of each label, both in ascending order, from the label of each cell, shape (n,).

    The cells are sorted once: a search for each label among all cells takes minutes for thousands of labels.
    """
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts))[:-1]
    return dict(zip(names.tolist(), parts, strict=True))


def stratified(labels: Strings) -> npt.NDArray[np.int64]:
    """Return at most about ``LARGEST_FIT`` of n cells, ascending, by their labels, shape (n,).

    They are spread evenly over the cells of each label, of which they are the same share but for rare labels: of these,
    a few hundred cells stay.
    """
    step = -(-len(labels) // LARGEST_FIT)
    if step <= 1:
        return np.arange(len(labels))
    rows = list(rows_by_label(labels).values())
    steps = [max(1, min(step, len(some) // CELLS_OF_RARE)) for some in rows]
    return np.sort(np.concatenate([some[::every] for some, every in zip(rows, steps, strict=True)]))

"""Samples of cells that depend on what the cells hold, not on the order that they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

# What is learned of a query is learned from at most this many of its cells, and neighbours are sought among them: so
# the time grows with the number of cells, not its square, and the memory hardly.
LARGEST_SAMPLE = 20_000


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

"""Samples depend on what cells hold, not on their order."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.sampling import content_keys, sample_of


def test_a_sample_does_not_depend_on_the_order_of_the_cells(query: AnnData) -> None:
    logs = query.X.astype(np.float64)
    shuffled = np.random.default_rng(1).permutation(logs.shape[0])

    found = sample_of(content_keys(logs), 100)

    assert len(found) == 100
    assert np.array_equal(np.sort(shuffled[sample_of(content_keys(logs[shuffled]), 100)]), found)
    assert np.array_equal(sample_of(content_keys(logs), logs.shape[0]), np.arange(logs.shape[0]))


def test_a_sample_of_repeated_cells_has_each_of_them() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=(50, 4)), 20, axis=0)

    found = sample_of(content_keys(values), 100)

    assert len(np.unique(found // 20)) == 50

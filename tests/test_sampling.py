"""Samples do not depend on the order of cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from spikgpt import sampling
from spikgpt.sampling import LARGEST_FIT, content_keys, rows_by_label, sample_of, stratified


def test_a_sample_does_not_depend_on_the_order_of_the_cells(logs: sparse.csr_matrix) -> None:
    shuffled = np.random.default_rng(1).permutation(logs.shape[0])

    sample = sample_of(content_keys(logs), 100)

    assert len(sample) == 100
    assert np.array_equal(np.sort(shuffled[sample_of(content_keys(logs[shuffled]), 100)]), sample)
    assert np.array_equal(sample_of(content_keys(logs), logs.shape[0]), np.arange(logs.shape[0]))


def test_a_sample_of_repeated_cells_has_every_distinct_cell() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=(50, 4)), 20, axis=0)

    sample = sample_of(content_keys(values), 100)

    assert len(np.unique(sample // 20)) == 50


@pytest.mark.parametrize("decimals", [1, 12])
def test_sorting_keys_in_parts_gives_the_same_sample(decimals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).normal(size=54_321).round(decimals)  # with one decimal, some keys are equal
    expected = sample_of(keys, 700)
    for size in (999, 20_000, 54_320):
        monkeypatch.setattr(sampling, "LARGEST_SORT", size)
        assert np.array_equal(sample_of(keys, 700), expected)


def test_a_sample_by_label_keeps_shares_and_rare_labels() -> None:
    labels = np.random.default_rng(0).choice(["common", "less", "rare"], size=200_000, p=[0.9, 0.099, 0.001])

    rows = stratified(labels)

    kept = {name: int((labels[rows] == name).sum()) for name in ("common", "less", "rare")}
    assert np.all(np.diff(rows) > 0)
    assert len(rows) < 1.05 * LARGEST_FIT
    assert kept["rare"] == (labels == "rare").sum()
    assert kept["common"] / kept["less"] == pytest.approx(0.9 / 0.099, rel=0.05)
    assert np.array_equal(stratified(labels[:LARGEST_FIT]), np.arange(LARGEST_FIT))


def test_rows_by_label_equal_the_rows_of_flatnonzero() -> None:
    labels = np.random.default_rng(0).choice(["b", "a", "beta"], 200).astype(np.str_)
    rows = rows_by_label(labels)
    assert list(rows) == ["a", "b", "beta"]
    assert all((rows[name] == np.flatnonzero(labels == name)).all() for name in rows)
    assert rows_by_label(labels[:0]) == {}

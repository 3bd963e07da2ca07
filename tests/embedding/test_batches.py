"""Batches are inferred if one effect shifts the cells of most labels; cells of a missing type are no batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial import cKDTree

from spikgpt.embedding.batches import infer_batches

LABELS, SIZE = 5, 12


def made_up(cells: int, batches: int = 1, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Return coordinates, labels and batches of made-up cells, and the mean coordinates of each label."""
    random = np.random.default_rng(seed)
    profiles = 8 * random.normal(size=(LABELS, SIZE))
    best, of_batch = random.integers(LABELS, size=cells), random.integers(batches, size=cells)
    effects = np.concatenate([np.zeros((1, SIZE)), 3 * random.normal(size=(batches - 1, SIZE))])
    return profiles[best] + effects[of_batch] + random.normal(size=(cells, SIZE)), best, of_batch, profiles


def inferred(points: Any, best: Any, profiles: Any) -> npt.NDArray[np.int64]:
    """Return the inferred batches of cells, from the 14 nearest neighbours of each cell."""
    near = cKDTree(points).query(points, 15)[1][:, 1:]
    return infer_batches(points, best, near, profiles)


def assert_same_parts(parts: Any, expected: Any) -> None:
    """Assert that two partitions of the cells are the same; the numbers of their parts may differ."""
    pairs = set(zip(parts.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(set(parts.tolist())) == len(set(expected.tolist()))


@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_batches_are_inferred(batches: int, seed: int) -> None:
    points, best, of_batch, profiles = made_up(1500, batches, seed)
    assert_same_parts(inferred(points, best, profiles), of_batch)


@pytest.mark.parametrize("seed", range(5))
def test_cells_without_an_effect_are_one_batch(seed: int) -> None:
    points, best, _, profiles = made_up(1000, seed=seed)
    assert not inferred(points, best, profiles).any()


def test_a_type_that_is_missing_from_the_reference_is_no_batch() -> None:
    points, best, _, profiles = made_up(1000)
    missing = np.flatnonzero(best == 0)[:100]
    points[missing] += 9.0
    assert not inferred(points, best, profiles).any()


def test_a_missing_type_with_several_labels_is_no_batch() -> None:
    points, best, _, profiles = made_up(1200)
    missing = np.flatnonzero(best < 3)
    missing = missing[np.random.default_rng(0).random(len(missing)) < 0.4]
    points[missing] = np.full(SIZE, 9.0) + np.random.default_rng(1).normal(size=(len(missing), SIZE))
    assert not inferred(points, best, profiles).any()


def test_a_rare_label_and_a_label_of_one_batch_get_the_right_batch() -> None:
    points, best, of_batch, profiles = made_up(1500, 2)
    kept = ~((best == 1) & (of_batch == 0)) & ~((best == 2) & (np.arange(1500) > 200))
    batches = inferred(points[kept], best[kept], profiles)
    assert 0 < (best[kept] == 2).sum() < 60
    assert_same_parts(batches, of_batch[kept])


def test_fewer_than_three_labels_or_a_hundred_cells_are_one_batch() -> None:
    points, best, of_batch, profiles = made_up(1500, 2)
    assert not inferred(points[best < 2], best[best < 2], profiles).any()
    few = (of_batch == 0) | (np.cumsum(of_batch) <= 90)
    assert not inferred(points[few], best[few], profiles).any()
    assert not infer_batches(points[:0], best[:0], np.empty((0, 0), dtype=np.int64), profiles).any()


def test_order_and_origin_of_the_points_do_not_matter() -> None:
    points, best, _, profiles = made_up(1500, 3)
    order = np.random.default_rng(2).permutation(1500)
    moved = inferred(points[order] + 5, best[order], profiles + 5)
    assert_same_parts(moved, inferred(points, best, profiles)[order])

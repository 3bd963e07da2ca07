"""Positions of names on a map."""

from __future__ import annotations

import numpy as np
import pytest

from spikgpt.pl.placement import place_boxes


def count_overlaps(centres: np.ndarray, sizes: np.ndarray) -> int:
    """Return the number of pairs of boxes that overlap."""
    apart = np.abs(centres[:, None] - centres[None])
    touching = (apart < (sizes[:, None] + sizes[None]) / 2).all(axis=2)
    return int((touching.sum() - len(centres)) / 2)


@pytest.mark.parametrize("number", [8, 30, 100])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_never_overlap_and_stay_on_the_map(number: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    anchors = random.normal(250, 60, (number, 2))
    sizes = np.column_stack([random.uniform(20, 120, number), np.full(number, 11.0)])
    centres = place_boxes(anchors, sizes, (500, 500), farthest=125)
    placed = ~np.isnan(centres[:, 0])
    assert count_overlaps(centres[placed], sizes[placed]) == 0
    assert (centres[placed] >= sizes[placed] / 2).all()
    assert (centres[placed] <= 500 - sizes[placed] / 2).all()
    assert (np.linalg.norm(centres - anchors, axis=1)[placed] <= 125 + 1e-9).all()
    assert placed.mean() > (0.99 if number < 100 else 0.7)


def test_a_free_box_stays_at_its_anchor_and_a_box_without_room_has_no_place() -> None:
    anchors, sizes = np.array([[50.0, 50], [50, 50], [20, 20]]), np.array([[30.0, 10], [30, 10], [400, 10]])
    centres = place_boxes(anchors, sizes, (100, 100), farthest=40)
    np.testing.assert_array_equal(centres[0], [50, 50])
    assert 10 <= np.linalg.norm(centres[1] - [50, 50]) < 20
    assert np.isnan(centres[2]).all()
    stuck = place_boxes(np.full((50, 2), 50.0), np.full((50, 2), 30.0), (100, 100), farthest=40)
    assert 1 < (~np.isnan(stuck[:, 0])).sum() < 50

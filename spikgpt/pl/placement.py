"""Positions of names on a map, without overlaps and within the map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikgpt.types import Floats

# Number of directions of the search around a point, and step of the search as a share of the height of a text.
DIRECTIONS, STEP = 24, 0.6
# Smallest distance between two texts in pixels.
GAP = 2.0


def place_boxes(
    anchors: Floats, sizes: Floats, bounds: tuple[float, float], *, farthest: float
) -> npt.NDArray[np.float64]:
    """Return the centre of each box, shape (n, 2); NaN where there is no room.

    Boxes are placed one after the other, each at the free place nearest to its anchor.

    Parameters
    ----------
    anchors, sizes
        Preferred centres, and widths and heights, each of shape (n, 2), in pixels.
    bounds
        Width and height of the map in pixels. One corner of the map is at (0, 0).
    farthest
        Largest distance of a centre from its anchor in pixels.
    """
    centres = np.full(anchors.shape, np.nan)
    sizes = sizes + GAP
    low, high = sizes / 2, np.asarray(bounds) - sizes / 2
    for index, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        if (low[index] > high[index]).any():
            continue  # the text is wider or higher than the map
        candidates = np.clip(anchor + _offsets(size[1], farthest), low[index], high[index])
        placed = ~np.isnan(centres[:, 0])
        apart = np.abs(candidates[:, None] - centres[None, placed])  # (candidates, placed, 2)
        free = ~(apart < (sizes[placed] + size) / 2).all(axis=2).any(axis=1)
        near = np.linalg.norm(candidates - anchor, axis=1)
        free &= near <= farthest
        if free.any():
            centres[index] = candidates[np.where(free, near, np.inf).argmin()]
    return centres


def _offsets(height: float, farthest: float) -> npt.NDArray[np.float64]:
    """Return the offsets from an anchor at which a text is tried, in pixels, shape (m, 2), the nearest first."""
    radii = np.arange(1, max(2, int(farthest / (STEP * height)) + 1)) * STEP * height
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False) + np.pi / 2
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([np.zeros((1, 2)), (radii[:, None, None] * ring).reshape(-1, 2)])

"""Colours for labels, the same in every query, which colour-blind readers can distinguish."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from spikgpt.types import Floats

UNKNOWN_COLOR = "#b0b0b0"
# Nobody distinguishes more colours; further labels repeat them.
MOST_COLORS = 500
# Okabe and Ito's colours (Color Universal Design, 2008) without black.
FIRST = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
# Lightness of all others in OKLab: neither black nor lost on white paper.
LIGHTNESS = (0.4, 0.9)
# Linear RGB as seen with all cones, without red cones and without green cones (Vienot et al., 1999).
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    ]
)
# From linear RGB to cones and on to OKLab, in which distances are differences as seen (Ottosson, 2020).
CONES = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
OPPONENTS = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])


@cache
def palette(size: int) -> tuple[str, ...]:
    """Return colours as hex codes; the first colours do not depend on the size.

    Each colour is the point of a grid that is farthest from all earlier colours and from the grey of Unknown, for the
    kind of colour vision that sees the smallest difference.
    """
    levels = range(0, 256, 17)
    grid = np.array([(red, green, blue) for red in levels for green in levels for blue in levels])  # (4096, 3)
    lightness = as_seen(grid)[0, :, 0]
    grid = grid[(lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1])]
    fixed = ("#000000", "#ffffff", UNKNOWN_COLOR, *FIRST)
    colors = np.concatenate([[tuple(bytes.fromhex(code[1:])) for code in fixed], grid])
    seen = as_seen(colors)
    distance = np.full(len(colors), np.inf)
    chosen: list[int] = []
    while len(chosen) < 3 + min(size, MOST_COLORS):
        chosen.append(len(chosen) if len(chosen) < len(fixed) else int(distance.argmax()))
        apart = np.linalg.norm(seen - seen[:, chosen[-1:]], axis=2).min(axis=0)
        distance = np.minimum(distance, apart)
    codes = [f"#{bytes(colors[index].tolist()).hex()}" for index in chosen[3:]]
    return tuple(codes[index % MOST_COLORS] for index in range(size))


def as_seen(colors: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return colours as three kinds of colour vision see them, in OKLab: RGB from 0 to 255, (n, 3) to (3, n, 3)."""
    shares: Floats = colors / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    cones = np.maximum(linear @ (CONES @ EYES).transpose(0, 2, 1), 0)
    return np.asarray(np.cbrt(cones) @ OPPONENTS.T)

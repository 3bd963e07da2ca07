"""Colours for labels, the same in every query, which colour-blind readers can distinguish."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from spikgpt.types import Floats

UNKNOWN_COLOR = "#b0b0b0"
# Largest number of different colours, as more cannot be distinguished. Further labels repeat these colours.
MOST_COLORS = 500
# Okabe and Ito's colours (Color Universal Design, 2008) that stand out on white paper and on a dark page.
FIRST = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
# White background of pictures and dark background of reports, and weights of linear RGB in the luminance (WCAG 2.2).
WHITE, DARK = "#ffffff", "#15181c"
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
# Lowest contrast of a colour with the white and the dark background: the usual limit, and the limit for many labels.
CONTRAST, LEAST_CONTRAST = (3.0, 3.0), (1.5, 2.0)
# Factors of colour distances for normal vision and two kinds of colour blindness. The factor of normal vision is lower,
# because normal vision also sees hue.
EYE_FACTORS = np.array([0.6, 1.0, 1.0])[:, None]
# Smallest distance from other colours in OKLab. If no colour with the usual contrast has it, less contrast is accepted.
APART = 0.04
# Matrices of linear RGB as seen with all cones, without red cones and without green cones (Vienot et al., 1999).
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    ]
)
# Matrices from linear RGB to cone responses, and on to OKLab. Distances in OKLab are perceived differences of colour
# (Ottosson, 2020).
CONES = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
OPPONENTS = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])


@cache
def palette(size: int) -> tuple[str, ...]:
    """Return ``size`` colours as hex codes; a longer palette starts with the colours of a shorter palette.

    Each colour is the point of a grid that is farthest from all earlier colours and from the grey of Unknown. The
    distance is the smallest over three kinds of colour vision. The first 26 colours stand out on both backgrounds.
    Later colours may have less contrast, because more colours with this contrast would look alike.
    """
    levels = range(0, 256, 15)
    grid = np.array([(red, green, blue) for red in levels for green in levels for blue in levels])  # (5832, 3)
    contrasts = np.stack([contrast(grid, rgb([ground])) for ground in (WHITE, DARK)], axis=1)  # (5832, 2)
    usable = (contrasts >= LEAST_CONTRAST).all(axis=1)
    fixed = ("#000000", WHITE, UNKNOWN_COLOR, *FIRST)
    colors = np.concatenate([rgb(fixed), grid[usable]])
    clear = np.concatenate([np.zeros(len(fixed), dtype=bool), (contrasts[usable] >= CONTRAST).all(axis=1)])
    seen = as_seen(colors)
    distance = np.full(len(colors), np.inf)
    chosen: list[int] = []
    while len(chosen) < 3 + min(size, MOST_COLORS):
        best = int(np.where(clear, distance, -1).argmax())
        best = best if distance[best] >= APART else int(distance.argmax())
        chosen.append(len(chosen) if len(chosen) < len(fixed) else best)
        apart = (EYE_FACTORS * np.linalg.norm(seen - seen[:, chosen[-1:]], axis=2)).min(axis=0)
        distance = np.minimum(distance, apart)
    codes = [f"#{bytes(colors[index].tolist()).hex()}" for index in chosen[3:]]
    return tuple(codes[index % MOST_COLORS] for index in range(size))


def rgb(codes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return hex codes as RGB from 0 to 255, shape (n, 3)."""
    return np.array([tuple(bytes.fromhex(code[1:])) for code in codes], dtype=np.int64)


def contrast(colors: npt.NDArray[np.integer], ground: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return the WCAG 2.2 contrast, from 1 to 21, shape (n,), of RGB colours, (n, 3), with a background, (1, 3)."""
    bright, ground_bright = linear(colors) @ LUMINANCE + 0.05, linear(ground) @ LUMINANCE + 0.05
    return np.asarray(np.maximum(bright, ground_bright) / np.minimum(bright, ground_bright))


def linear(colors: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return linear RGB from 0 to 1 for RGB colours from 0 to 255, in the same shape."""
    shares: Floats = colors / 255
    return np.asarray(np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4))


def as_seen(colors: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return RGB colours, shape (n, 3), in OKLab as seen by three kinds of colour vision, shape (3, n, 3)."""
    cones = np.maximum(linear(colors) @ (CONES @ EYES).transpose(0, 2, 1), 0)
    return np.asarray(np.cbrt(cones) @ OPPONENTS.T)

"""Colours stay the same from query to query, and differ for all eyes."""

from __future__ import annotations

import numpy as np
import pytest

from spikgpt.scoring.palette import UNKNOWN_COLOR, as_seen, palette


def seen(codes: tuple[str, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return as_seen(np.array([tuple(bytes.fromhex(code[1:])) for code in codes]))


def test_the_first_colours_never_change() -> None:
    assert palette(120)[:13] == palette(13)
    assert palette(13)[6:] == ("#cc79a7", "#881100", "#0000ff", "#444466", "#5511aa", "#bb44ff", "#ccddbb")
    assert palette(0) == ()


@pytest.mark.parametrize(("labels", "apart"), [(7, 0.075), (20, 0.075), (60, 0.04), (150, 0.02)])
def test_no_two_labels_look_alike_to_any_eyes(labels: int, apart: float) -> None:
    colors = seen((*palette(labels), UNKNOWN_COLOR))  # (3 kinds of eyes, labels + 1, 3)
    distances = np.linalg.norm(colors[:, :, None] - colors[:, None], axis=3) + np.eye(labels + 1)
    # The eyes of most people see more of a difference than the others.
    assert distances.min() >= apart
    assert len(set(palette(labels))) == labels


def test_lightness_is_that_of_oklab() -> None:
    np.testing.assert_allclose(seen(("#ffffff", "#000000"))[0], [[1, 0, 0], [0, 0, 0]], atol=1e-3)
    # Red, by Ottosson's reference implementation.
    np.testing.assert_allclose(seen(("#ff0000",))[0, 0], [0.6280, 0.2249, 0.1258], atol=1e-3)
    # Without cones for it, red and a dark yellow are the same.
    protan = seen(("#ff0000", "#5d5d00"))[1]
    np.testing.assert_allclose(protan[0], protan[1], atol=0.03)


def test_many_labels_take_little_time() -> None:
    assert palette(600)[500:] == palette(500)[:100]
    assert palette(100_000)[-500:] == palette(500)

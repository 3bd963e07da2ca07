"""Label colours are the same for every query, and differ with and without colour blindness."""

from __future__ import annotations

import numpy as np
import pytest

from spikgpt.report.page import asset
from spikgpt.scoring.palette import DARK, UNKNOWN_COLOR, WHITE, as_seen, contrast, palette, rgb


def seen(codes: tuple[str, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return as_seen(rgb(codes))


def test_the_first_colours_never_change() -> None:
    assert palette(120)[:13] == palette(13)
    assert palette(10)[3:] == ("#cc79a7", "#870fff", "#ff1eff", "#875a69", "#d20fa5", "#4b87ff", "#d2003c")
    assert palette(0) == ()


@pytest.mark.parametrize(
    ("labels", "apart", "apart_for_most"), [(7, 0.075, 0.14), (20, 0.045, 0.08), (60, 0.035, 0.06), (150, 0.02, 0.035)]
)
def test_label_colours_differ_with_and_without_colour_blindness(
    labels: int, apart: float, apart_for_most: float
) -> None:
    colors = seen((*palette(labels), UNKNOWN_COLOR))  # shape (3 kinds of colour vision, labels + 1, 3)
    distances = np.linalg.norm(colors[:, :, None] - colors[:, None], axis=3) + np.eye(labels + 1)
    # Differences are larger with usual colour vision.
    assert distances.min() >= apart
    assert distances[0].min() >= apart_for_most
    assert len(set(palette(labels))) == labels


def test_colours_stand_out_on_paper_and_on_a_dark_page() -> None:
    assert f"--paper: {DARK};" in asset("page.css")
    assert f"--paper: {WHITE};" in asset("page.css")
    colors = rgb(palette(26))
    for ground in (WHITE, DARK):
        assert contrast(colors, rgb([ground])).min() >= 3
    many = rgb(palette(150))
    assert contrast(many, rgb([WHITE])).min() >= 1.5
    assert contrast(many, rgb([DARK])).min() >= 2
    np.testing.assert_allclose(contrast(rgb(["#000000", "#767676"]), rgb([WHITE])), [21, 4.54], atol=0.01)


def test_lightness_is_that_of_oklab() -> None:
    np.testing.assert_allclose(seen(("#ffffff", "#000000"))[0], [[1, 0, 0], [0, 0, 0]], atol=1e-3)
    # Oklab coordinates of red, by Ottosson's reference implementation.
    np.testing.assert_allclose(seen(("#ff0000",))[0, 0], [0.6280, 0.2249, 0.1258], atol=1e-3)
    # With protanopia, red and a dark yellow look the same.
    protan = seen(("#ff0000", "#5d5d00"))[1]
    np.testing.assert_allclose(protan[0], protan[1], atol=0.03)


def test_many_labels_take_little_time() -> None:
    assert palette(600)[500:] == palette(500)[:100]
    assert palette(100_000)[-500:] == palette(500)

"""Pictures of a model card."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from spikgpt.errors import ConfigError
from spikgpt.reference.pictures import confusion_picture, reliability_picture

CONFUSION = {"labels": ["alpha", "rare"], "counts": [[27, 3], [0, 0]]}
BINS = [{"confidence": 0.4, "accuracy": 0.5, "cells": 2}, {"confidence": 0.98, "accuracy": 1.0, "cells": 28}]


def test_the_confusion_matrix_is_drawn_the_same_each_time() -> None:
    picture = confusion_picture(CONFUSION)
    assert picture == confusion_picture(CONFUSION)
    assert picture != confusion_picture({"labels": ["alpha", "rare"], "counts": [[30, 0], [0, 0]]})
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert 200 < width < 1000
    assert 200 < height < 1000


def test_reliability_is_drawn_the_same_each_time() -> None:
    assert reliability_picture(BINS) == reliability_picture(BINS) != reliability_picture(BINS[:1])


def test_without_matplotlib_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"^This needs matplotlib, .*\. Run: pip install 'matplotlib>=3\.8'$"):
        confusion_picture(CONFUSION)


def test_a_confusion_matrix_has_2400_pixels_a_side_at_most() -> None:
    names = [f"type {label} of a tissue" for label in range(400)]
    counts = (10 * np.eye(400, dtype=int) + 1).tolist()
    width, height = struct.unpack(">II", confusion_picture({"labels": names, "counts": counts})[16:24])
    assert width == height == 2400


def test_the_shares_of_many_labels_are_computed_in_few_passes() -> None:
    passes = 0

    # If the sum of a row were computed for each number in the row, a picture would take minutes.
    class Row(list[int]):
        def __iter__(self) -> Iterator[int]:
            nonlocal passes
            passes += 1
            return super().__iter__()

    counts = np.eye(60, dtype=int).tolist()
    confusion_picture({"labels": [str(label) for label in range(60)], "counts": [Row(row) for row in counts]})
    assert passes <= 2 * 60


@pytest.mark.parametrize("label", ["a\nb", "$x_$", "$\\frac{$", "\u65e5\u672c", 500 * "long "])
def test_any_label_can_be_drawn(label: str) -> None:
    picture = confusion_picture({"labels": [label, "rare"], "counts": [[27, 3], [0, 0]]})
    width, _ = struct.unpack(">II", picture[16:24])
    assert 200 < width < 1000

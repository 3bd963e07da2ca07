from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spikgpt.errors import ConfigError, DamagedReference
from spikgpt_onnx.thresholds import Thresholds, confidence_of, conformal_threshold, is_unknown


def test_the_rank_by_hand() -> None:
    # floor(0.05 * (99 + 1)) = 5: five of a hundred exchangeable cells may fall below the fifth smallest.
    confidence = np.linspace(0.01, 0.99, 99)
    thresholds = conformal_threshold(confidence, 0.05)
    assert thresholds.threshold == pytest.approx(0.05)
    assert thresholds.calibration_cells == 99


def test_too_few_cells_reject_nobody() -> None:
    assert conformal_threshold(np.array([0.3, 0.6]), 0.05).threshold == 0


def test_the_share_of_known_cells_rejected_is_at_most_the_promised_one_on_average() -> None:
    random = np.random.default_rng(0)
    rejected = []
    for _ in range(2000):
        draw = random.beta(8, 1, 300)
        rejected.append((draw[100:] < conformal_threshold(draw[:100], 0.05).threshold).mean())
    assert np.mean(rejected) <= 0.05
    assert np.mean(rejected) == pytest.approx(5 / 101, abs=0.002)


def test_ties_are_kept() -> None:
    assert not is_unknown(np.array([0.5, 0.5]), 0.5).any()
    assert is_unknown(np.array([0.4999]), 0.5).all()


def test_confidence_is_the_largest_probability() -> None:
    np.testing.assert_array_equal(confidence_of(np.array([[0.1, 0.9], [0.6, 0.4]])), [0.9, 0.6])


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ConfigError, match="expected a probability from 0 to 1"):
        is_unknown(np.array([0.5]), threshold)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ConfigError, match="expected a share"):
        conformal_threshold(np.array([0.5]), rate)


def test_golden_json() -> None:
    thresholds = Thresholds(0.5, 0.05, 100)
    assert json.dumps(thresholds.to_dict()) == (
        '{"method": "maximum probability", "threshold": 0.5, "unknown_rate": 0.05, "calibration_cells": 100, '
        '"paper_threshold": 0.95}'
    )
    assert Thresholds.from_dict(json.loads(json.dumps(thresholds.to_dict()))) == thresholds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": "0.5"}, "threshold in thresholds.json is '0.5'"),
        ({"threshold": float("nan")}, "threshold in thresholds.json is nan"),
        ({"unknown_rate": -1}, "unknown_rate in thresholds.json is -1"),
        ({"calibration_cells": True}, "calibration_cells in thresholds.json is True"),
        ({"method": "entropy"}, "method 'maximum probability'"),
        (
            {"paper_threshold": float("inf")},
            "paper_threshold in thresholds.json is inf; expected",
        ),
        (
            {"extra": 1},
            r"holds \['calibration_cells', 'extra', .*; expected \['calibration_cells', 'm",
        ),
    ],
)
def test_damaged_thresholds_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedReference, match=message):
        Thresholds.from_dict(Thresholds(0.5, 0.05, 100).to_dict() | change)


@pytest.mark.parametrize("values", [{}, {"threshold": 0.5}, [], None])
def test_values_that_are_not_thresholds_are_refused(values: Any) -> None:
    with pytest.raises(DamagedReference, match=r"expected \['calibration_cells'"):
        Thresholds.from_dict(values)

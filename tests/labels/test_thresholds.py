from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.labels.thresholds import (
    Calibration,
    Rejection,
    Scores,
    Thresholds,
    confidence_of,
    conformal_threshold,
    decide,
    fit_temperature,
    is_unknown,
    tempered,
)


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
        ({"method": "entropy"}, "method 'maximum probability' or 'familiarity'"),
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


NAMES = ("a", "b")


def calibrated(scores: Any = None, best: Any = None) -> Thresholds:
    scores = np.linspace(0.01, 0.99, 99) if scores is None else scores
    calibration = Calibration.of(np.asarray(scores), np.full(len(scores), "a") if best is None else best)
    return Thresholds(0.5, 0.05, len(scores), alone=calibration, together=calibration)


def rejected(thresholds: Thresholds, scores: Any, best: Any = 0, **options: Any) -> list[bool]:
    probabilities = np.eye(2)[np.broadcast_to(best, len(scores))]
    decision = decide(thresholds, Rejection(**options), NAMES, probabilities, np.asarray(scores), together=True)
    return [bool(cell) for cell in decision.rejected]


def test_the_rank_of_familiarity_by_hand() -> None:
    scores = Scores.of(np.linspace(0.01, 0.99, 99))
    assert scores.threshold(0.05) == pytest.approx(0.05)
    assert scores.threshold(0.009) == -np.inf
    assert rejected(calibrated(), [0.049, 0.05, 0.5]) == [True, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], unknown_rate=0.04) == [False, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], unknown_rate=0.0) == [False, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], threshold=1.0) == [False, False, False]


def test_at_most_the_promised_share_is_rejected_on_average_of_all_cells_and_of_each_label() -> None:
    random = np.random.default_rng(0)
    shares: dict[str, list[float]] = {"all": [], "a": [], "b": []}
    for _ in range(500):
        best = random.choice(2, 400, p=[0.7, 0.3])
        scores = random.normal(np.where(best == 0, 2.0, 0.0), np.where(best == 0, 1.0, 3.0))
        thresholds = calibrated(scores[:200], np.array(NAMES)[best[:200]])
        found = np.array(rejected(thresholds, scores[200:], best[200:]))
        shares["all"].append(found.mean())
        for label, name in enumerate(NAMES):
            shares[name].append(found[best[200:] == label].mean())
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    assert max(means.values()) <= 0.05, means
    assert means["b"] > 0.03, means  # the harder label is not let off altogether


def test_a_label_with_few_held_out_cells_shares_the_limit_of_all() -> None:
    scores = np.concatenate([np.linspace(1, 2, 100), np.linspace(0, 1, 20)])
    best = np.repeat(NAMES, (100, 20))
    limits = calibrated(scores, best).together.limits(NAMES, 0.05)  # type: ignore[union-attr]
    assert limits[0] == limits[1] == pytest.approx(np.sort(scores)[5], abs=1e-6)
    many = calibrated(np.concatenate([np.linspace(1, 2, 100), np.linspace(0, 1, 30)]), np.repeat(NAMES, (100, 30)))
    own = many.together.limits(NAMES, 0.05)  # type: ignore[union-attr]
    assert own[1] == pytest.approx(0)
    assert own[0] > own[1]


def test_familiarity_is_the_share_of_held_out_cells_that_are_less_familiar() -> None:
    scores = Scores.of(np.linspace(0, 1, 101))
    shares = scores.share_below(np.array([-9.0, -0.1, 0.0, 0.5, 0.505, 1.0, 1.1, 9.0]))
    assert (np.diff(shares) > 0).all()
    assert shares[3] == pytest.approx(51 / 102)
    assert 0 < shares[0] < shares[1] < 1 / 102
    assert 101 / 102 < shares[-1] < 1


def test_many_scores_are_thinned_and_stay_safe() -> None:
    scores = np.random.default_rng(0).normal(size=20_000)
    kept = Scores.of(scores)
    assert len(kept.values) == 1000
    for rate in (0.001, 0.05, 0.3):
        assert (scores < kept.threshold(rate) - 1e-6).sum() <= rate * 20_001
        assert (scores < kept.threshold(rate)).mean() == pytest.approx(rate, abs=0.0015)


def test_recalibration_follows_a_query_that_lies_far_away_and_is_never_stricter() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(0, 1, 1000), np.array(NAMES)[np.arange(1000) % 2])
    best = np.arange(600) % 2
    near, far = random.normal(0, 1, 600), random.normal(-2, 1, 600)
    assert np.mean(rejected(thresholds, far, best)) > 0.5
    assert np.mean(rejected(thresholds, far, best, recalibrate=True)) == pytest.approx(0.05, abs=0.03)
    assert sum(rejected(thresholds, near, best, recalibrate=True)) <= sum(rejected(thresholds, near, best))
    decision = decide(thresholds, Rejection(), NAMES, np.eye(2)[best], far, together=True)
    assert decision.expected == pytest.approx(decision.rejected.mean(), abs=0.1)
    # Cells of an unseen type among those of one label do not make it look as if the study were far.
    unseen = np.concatenate([near, random.normal(-9, 1, 200)])
    given = np.concatenate([best, np.zeros(200, dtype=int)])
    assert np.mean(rejected(thresholds, unseen, given, recalibrate=True)[600:]) > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown_rate": 1.0}, "expected a share"),
        ({"threshold": 2.0}, "expected a probability"),
        ({"threshold": 0.5, "unknown_rate": 0.1}, "choose one"),
        ({"threshold": 0.5, "recalibrate": True}, "choose one"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rejection(**options)


def test_a_reference_of_format_1_keeps_its_rule_and_promises_nothing() -> None:
    old = Thresholds(0.5, 0.05, 100)
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [0.49, 0.48]])
    decision = decide(old, Rejection(), NAMES, probabilities, None, together=True)
    assert decision.rejected.tolist() == [False, False, True]
    assert decision.familiarity is None
    assert not decide(old, Rejection(unknown_rate=0), NAMES, probabilities, None, together=True).rejected.any()
    for options in ({"unknown_rate": 0.02}, {"recalibrate": True}):
        with pytest.raises(ConfigError, match="before familiarity was measured"):
            decide(old, Rejection(**options), NAMES, probabilities, None, together=True)


def test_temperature_undoes_what_made_probabilities_too_sure() -> None:
    random = np.random.default_rng(0)
    honest = random.dirichlet([1.0, 1.0, 1.0], 4000)
    truth = np.array([random.choice(3, p=row) for row in honest])
    assert fit_temperature(tempered(honest, 0.5), truth) == pytest.approx(2, abs=0.1)
    np.testing.assert_allclose(tempered(tempered(honest, 0.5), 2.0), honest, atol=1e-12)
    np.testing.assert_array_equal(tempered(np.zeros((2, 3)), 1.5), 0)


def test_calibrations_survive_a_file_and_damaged_ones_are_refused() -> None:
    thresholds = calibrated()
    values = json.loads(json.dumps(thresholds.to_dict()))
    assert Thresholds.from_dict(values) == thresholds
    assert list(values["together"]) == ["everything", "labels", "temperature"]
    damages = [
        ({"together": 5}, "is no calibration"),
        ({"together": values["together"] | {"temperature": 0}}, "temperature 0"),
        ({"together": values["together"] | {"everything": {"cells": 1}}}, "not ascending"),
        (
            {"alone": values["alone"] | {"labels": {"a": {"cells": 2, "ranks": [1, 2], "values": [2.0, 1.0]}}}},
            "of alone, a",
        ),
        ({"alone": values["alone"] | {"everything": {"cells": 1, "ranks": [1, 2], "values": [1, 2]}}}, "not ascending"),
        (
            {"alone": values["alone"] | {"everything": {"cells": 2, "ranks": [1, 2], "values": [1, "2"]}}},
            "not ascending",
        ),
    ]
    for change, message in damages:
        with pytest.raises(DamagedReference, match=message):
            Thresholds.from_dict(values | change)
    with pytest.raises(DamagedReference, match="expected"):
        Thresholds.from_dict({name: value for name, value in values.items() if name != "alone"})

"""Calibration on held-out cells: ranks, limits, temperatures, and the bytes of thresholds.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from spikgpt.errors import DamagedReference
from spikgpt.reference.json_files import converted, decoded, dumped
from spikgpt.scoring.thresholds import Calibration, ConformalScores, Thresholds, fit_temperature, tempered
from tests.conftest import DATA

NAMES = ("a", "b")
SHIPPED = Path(__file__).parents[2] / "spikgpt" / "references" / "pancreas"


def calibrated(scores: Any = None, best: Any = None) -> Thresholds:
    scores = np.linspace(0.01, 0.99, 99) if scores is None else scores
    calibration = Calibration.fit(np.asarray(scores), np.full(len(scores), "a") if best is None else best)
    return Thresholds("familiarity", 0.5, 0.05, len(scores), 0.95, calibration, calibration)


def test_the_threshold_is_the_value_of_the_conformal_rank() -> None:
    # floor(0.05 * (99 + 1)) = 5: five of a hundred exchangeable cells may fall below the fifth smallest.
    values = np.linspace(0.01, 0.99, 99)
    thresholds, scores = Thresholds.fit(values, 0.05), ConformalScores.fit(values)
    assert thresholds.threshold == scores.threshold(0.05) == pytest.approx(0.05)
    assert thresholds.calibration_cells == scores.cells == 99


def test_too_few_cells_reject_no_cell() -> None:
    assert Thresholds.fit(np.array([0.3, 0.6]), 0.05).threshold == 0
    assert ConformalScores.fit(np.array([0.3, 0.6])).threshold(0.05) == -np.inf


@pytest.mark.parametrize("saturated", [1.0, 1 - 1e-13, 1 - 4e-8])
def test_saturated_confidence_gives_a_threshold_below_the_float32_values(saturated: float) -> None:
    confidence = np.full(99, saturated)
    threshold = Thresholds.fit(confidence).threshold
    assert threshold == 0.9999
    assert not (confidence < threshold).any()
    assert not (confidence.astype(np.float32) < threshold).any()


def test_the_mean_share_of_rejected_known_cells_is_at_most_the_unknown_rate() -> None:
    random = np.random.default_rng(0)
    rejected = []
    for _ in range(2000):
        draw = random.beta(8, 1, 300)
        rejected.append((draw[100:] < Thresholds.fit(draw[:100], 0.05).threshold).mean())
    assert np.mean(rejected) <= 0.05
    assert np.mean(rejected) == pytest.approx(5 / 101, abs=0.002)


def test_golden_bytes() -> None:
    thresholds = Thresholds("maximum probability", 0.5, 0.05, 100, 0.95)
    content = (
        b'{\n "method": "maximum probability",\n "threshold": 0.5,\n "unknown_rate": 0.05,\n'
        b' "calibration_cells": 100,\n "paper_threshold": 0.95\n}\n'
    )
    assert dumped(thresholds) == content
    assert decoded(content, "thresholds.json", Thresholds) == thresholds


@pytest.mark.parametrize(
    "folder",
    [SHIPPED, DATA / "format_1" / "counts", DATA / "format_1" / "embedded", DATA / "format_2" / "embedded"],
    ids=lambda folder: "-".join(folder.parts[-2:]),
)
def test_stored_thresholds_survive_a_round_trip_byte_for_byte(folder: Path) -> None:
    content = (folder / "thresholds.json").read_bytes()
    thresholds = decoded(content, "thresholds.json", Thresholds)
    assert dumped(thresholds) == content
    assert (thresholds.calibration(smoothed=True) is None) == ("format_1" in folder.parts)


def test_smoothed_and_single_cells_have_their_own_calibration() -> None:
    single, smoothed = (Calibration.fit(np.linspace(0, 1, 40), np.full(40, "a"), 1 + extra) for extra in (0, 0.5))
    thresholds = Thresholds.fit(np.linspace(0, 1, 40), single=single, smoothed=smoothed)
    assert thresholds.calibration(smoothed=False) is single
    assert thresholds.calibration(smoothed=True) is smoothed
    assert thresholds.method == "familiarity"
    assert (thresholds.temperature, Thresholds.fit(np.ones(3)).temperature) == (1.0, 1.0)
    values = msgspec.to_builtins(thresholds)
    assert list(values)[-2:] == ["alone", "together"]
    assert [values[mode]["temperature"] for mode in ("alone", "together")] == [1.0, 1.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": "0.5"}, "Expected `float`, got `str`, in threshold: found '0.5'"),
        ({"threshold": float("nan")}, "Expected `float` >= 0.0, in threshold: found nan"),
        ({"unknown_rate": -1}, "Expected `float` >= 0.0, in unknown_rate: found -1"),
        ({"calibration_cells": True}, "Expected `int`, got `bool`, in calibration_cells: found True"),
        ({"method": "entropy"}, "Invalid enum value 'entropy', in method: found 'entropy'"),
        ({"method": "familiarity"}, "'familiarity' comes with no calibration; expected 'familiarity' with alone and"),
        ({"paper_threshold": float("inf")}, "Expected `float` <= 1.0, in paper_threshold: found inf"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_damaged_thresholds_are_refused(change: dict[str, Any], message: str) -> None:
    values = msgspec.to_builtins(Thresholds("maximum probability", 0.5, 0.05, 100, 0.95))
    with pytest.raises(DamagedReference, match=f"thresholds.json is not valid: .*{message}"):
        converted(values | change, "thresholds.json", Thresholds)


@pytest.mark.parametrize("values", [{}, {"method": "maximum probability", "threshold": 0.5}, [], None])
def test_values_that_are_not_thresholds_are_refused(values: Any) -> None:
    with pytest.raises(DamagedReference, match=r"Expected `object`|missing required field"):
        converted(values, "thresholds.json", Thresholds)


def test_damaged_calibrations_are_refused() -> None:
    thresholds = calibrated()
    values = json.loads(dumped(thresholds))
    assert converted(values, "thresholds.json", Thresholds) == thresholds
    assert list(values["together"]) == ["everything", "labels", "temperature"]
    ascending = "99 held-out cells are not finite ascending numbers, each with its rank"
    damages = [
        ({"together": 5}, "got `int`, in together: found 5"),
        ({"together": values["together"] | {"temperature": 0}}, "`float` >= 0.01, in together.temperature: found 0"),
        (
            {"together": values["together"] | {"everything": {"cells": 1}}},
            "missing required field `ranks`, in together.everything",
        ),
        (
            {"alone": values["alone"] | {"everything": {"cells": 99, "ranks": [1], "values": ["2"]}}},
            "got `str`, in alone.everything.values[0]: found '2'",
        ),
    ]
    strange = [([1, 2], [2.0, 1.0]), ([2, 1], [1, 2]), ([1, 100], [1, 2]), ([1, 2], [1]), ([1, 2], [1, float("inf")])]
    for ranks, numbers in strange:
        scores = {"cells": 99, "ranks": ranks, "values": numbers}
        damages += [
            ({"alone": values["alone"] | part}, ascending)
            for part in ({"everything": scores}, {"labels": {"a": scores}})
        ]
    for change, message in damages:
        with pytest.raises(DamagedReference) as refused:
            converted(values | change, "thresholds.json", Thresholds)
        assert message in str(refused.value)
    with pytest.raises(DamagedReference, match="'familiarity' comes with together; expected"):
        converted({name: value for name, value in values.items() if name != "alone"}, "thresholds.json", Thresholds)


def test_a_label_with_few_held_out_cells_shares_the_limit_of_all() -> None:
    scores = np.concatenate([np.linspace(1, 2, 100), np.linspace(0, 1, 20)])
    limits = Calibration.fit(scores, np.repeat(NAMES, (100, 20))).limits(NAMES, 0.05)
    assert limits[0] == limits[1] == pytest.approx(np.sort(scores)[5], abs=1e-6)
    many = np.concatenate([np.linspace(1, 2, 100), np.linspace(0, 1, 30)])
    own = Calibration.fit(many, np.repeat(NAMES, (100, 30))).limits(NAMES, 0.05)
    assert own[1] == pytest.approx(0)
    assert own[0] > own[1]


def test_the_p_value_is_the_share_of_held_out_cells_with_lower_scores() -> None:
    scores = ConformalScores.fit(np.linspace(0, 1, 101))
    shares = scores.p_value(np.array([-9.0, -0.1, 0.0, 0.5, 0.505, 1.0, 1.1, 9.0]))
    assert (np.diff(shares) > 0).all()
    assert shares[3] == pytest.approx(51 / 102)
    assert 0 < shares[0] < shares[1] < 1 / 102
    assert 101 / 102 < shares[-1] < 1


def test_thinned_scores_keep_the_rejection_rate() -> None:
    scores = np.random.default_rng(0).normal(size=20_000)
    kept = ConformalScores.fit(scores)
    assert len(kept.values) == 1000
    for rate in (0.001, 0.05, 0.3):
        assert (scores < kept.threshold(rate) - 1e-6).sum() <= rate * 20_001
        assert (scores < kept.threshold(rate)).mean() == pytest.approx(rate, abs=0.0015)


def test_rounding_rejects_no_additional_cell() -> None:
    scores = np.repeat(-np.arange(1, 26) / 7, 4)  # each score belongs to four cells
    for rate in (0.04, 0.05, 0.1, 0.5):
        assert (scores < ConformalScores.fit(scores).threshold(rate)).mean() <= rate


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    honest = random.dirichlet([1.0, 1.0, 1.0], 4000)
    truth = np.array([random.choice(3, p=row) for row in honest])
    assert fit_temperature(tempered(honest, 0.5), truth) == pytest.approx(2, abs=0.1)
    np.testing.assert_allclose(tempered(tempered(honest, 0.5), 2.0), honest, atol=1e-12)
    np.testing.assert_array_equal(tempered(np.zeros((2, 3)), 1.5), 0)

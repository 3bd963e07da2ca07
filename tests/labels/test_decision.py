"""Cut-offs keep their promise, follow a query when asked to, and treat all of its cells alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spikgpt.errors import ConfigError
from spikgpt.labels.decision import Cutoffs, fit_cutoffs
from spikgpt.labels.thresholds import Thresholds
from spikgpt.options import AnnotateOptions, options_of
from tests.labels.test_thresholds import NAMES, calibrated


def fitted(thresholds: Thresholds, scores: Any, best: Any = 0, **options: Any) -> tuple[Cutoffs, list[bool]]:
    """Return the cut-offs of a query, and which of its cells are Unknown."""
    probabilities = np.eye(2)[np.broadcast_to(best, len(scores))]
    chosen = options_of(AnnotateOptions, options)
    cutoffs = fit_cutoffs(thresholds, chosen, NAMES, probabilities, np.asarray(scores), smoothed=True)
    return cutoffs, [bool(cell) for cell in cutoffs.rejects(probabilities, np.asarray(scores))]


def rejected(thresholds: Thresholds, scores: Any, best: Any = 0, **options: Any) -> list[bool]:
    return fitted(thresholds, scores, best, **options)[1]


def test_the_rank_of_familiarity_by_hand() -> None:
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


def test_recalibration_follows_a_query_that_lies_far_away_and_is_never_stricter() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(0, 1, 1000), np.array(NAMES)[np.arange(1000) % 2])
    best = np.arange(600) % 2
    near, far = random.normal(0, 1, 600), random.normal(-2, 1, 600)
    assert np.mean(rejected(thresholds, far, best)) > 0.5
    cutoffs, unknown = fitted(thresholds, far, best, recalibrate=True)
    assert np.mean(unknown) == pytest.approx(0.05, abs=0.03)
    assert cutoffs.recalibrated
    assert cutoffs.rule == "less familiar than 95% of held-out known cells, as far as this query spreads"
    assert sum(rejected(thresholds, near, best, recalibrate=True)) <= sum(rejected(thresholds, near, best))
    cutoffs, unknown = fitted(thresholds, far, best)
    assert cutoffs.expected == pytest.approx(np.mean(unknown), abs=0.1)
    # Cells of an unseen type among those of one label do not make it look as if the study were far.
    unseen = np.concatenate([near, random.normal(-9, 1, 200)])
    given = np.concatenate([best, np.zeros(200, dtype=int)])
    assert np.mean(rejected(thresholds, unseen, given, recalibrate=True)[600:]) > 0.95


def test_too_few_cells_are_not_recalibrated_on() -> None:
    cutoffs, unknown = fitted(calibrated(), [0.01] * 19, recalibrate=True)
    assert cutoffs.rule.endswith("(too few cells to recalibrate)")
    assert (cutoffs.recalibrated, cutoffs.expected, set(unknown)) == (False, None, {True})
    assert not any(rejected(calibrated(), [0.01] * 20, recalibrate=True))


def test_cells_are_judged_one_by_one_once_the_cutoffs_are_set() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(size=1000), np.array(NAMES)[np.arange(1000) % 2])
    probabilities, scores = random.dirichlet([1, 1], 500), random.normal(-1, 1, 500)
    for options in ({}, {"recalibrate": True}, {"threshold": 0.8}):
        cutoffs = fit_cutoffs(thresholds, AnnotateOptions(**options), NAMES, probabilities, scores, smoothed=False)
        parts = [cutoffs.rejects(probabilities[part], scores[part]) for part in np.array_split(np.arange(500), 7)]
        whole = cutoffs.rejects(probabilities, scores)
        assert 0 < whole.sum() < 500
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert cutoffs.rejects(probabilities[:0], scores[:0]).shape == (0,)


def test_all_but_the_limits_are_json() -> None:
    cutoffs, _ = fitted(calibrated(), np.linspace(0, 1, 50), unknown_rate=0.1, recalibrate=True)
    settings = {name: value for name, value in vars(cutoffs).items() if name != "limits"}
    again = Cutoffs(**json.loads(json.dumps(settings)), limits=cutoffs.limits)
    assert again == cutoffs
    assert cutoffs.limits is not None
    assert cutoffs.limits.shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown_rate": 1.0}, "unknown_rate is 1.0; expected a number of at least 0 and below 1"),
        ({"unknown_rate": -0.1}, "unknown_rate is -0.1; expected a number of at least 0 and below 1"),
        ({"threshold": 2.0}, "threshold is 2.0; expected a number of at least 0 and at most 1"),
        ({"threshold": float("nan")}, "threshold is nan; expected a number of at least 0 and at most 1"),
        ({"threshold": 0.5, "unknown_rate": 0.1}, "choose one"),
        ({"threshold": 0.5, "recalibrate": True}, "choose one"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_of(AnnotateOptions, options)


def test_a_probability_at_the_threshold_is_kept() -> None:
    cutoffs = Cutoffs("a probability below 0.5000", threshold=0.5)
    assert cutoffs.rejects(np.array([[0.5, 0.5], [0.4999, 0.3]]), None).tolist() == [False, True]


def test_a_reference_of_format_1_keeps_its_rule_and_promises_nothing() -> None:
    old = Thresholds("maximum probability", 0.5, 0.05, 100, 0.95)
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [0.49, 0.48]])
    cutoffs = fit_cutoffs(old, AnnotateOptions(), NAMES, probabilities, None, smoothed=True)
    assert cutoffs == Cutoffs("a probability below 0.5000", threshold=0.5)
    assert cutoffs.rejects(probabilities, None).tolist() == [False, False, True]
    none = fit_cutoffs(old, AnnotateOptions(unknown_rate=0.0), NAMES, probabilities, None, smoothed=True)
    assert not none.rejects(probabilities, None).any()
    for options in ({"unknown_rate": 0.02}, {"recalibrate": True}):
        with pytest.raises(ConfigError, match=r"before familiarity was measured.*threshold=0.95 \(--threshold 0.95\)"):
            fit_cutoffs(old, options_of(AnnotateOptions, options), NAMES, probabilities, None, smoothed=True)

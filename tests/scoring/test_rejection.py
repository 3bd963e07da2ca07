"""Rules for Unknown keep their false rejection rate, and treat each cell of a query alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions, options_of
from spikgpt.scoring.label_match import LabelMatch
from spikgpt.scoring.ood_rule import OODRule
from spikgpt.scoring.rejection import (
    CellScores,
    RejectionRule,
    expected_false_rejection,
    fit_rejection,
    least_confidence,
)
from spikgpt.scoring.thresholds import Thresholds
from tests.scoring.test_thresholds import NAMES, calibrated

# Label match of two labels in one batch, with the usual contrast of 2.4.
ONE_BATCH = LabelMatch(np.full((1, 2), 2.4), np.zeros((1, 2)), np.full((1, 2), 100))


def scores_of(scores: Any, best: Any = 0, averaged: Any = -9.0, probabilities: Any = None) -> CellScores:
    """Return the scores of cells of one batch."""
    if probabilities is None:
        probabilities = np.eye(2)[np.broadcast_to(best, len(scores))]
    averaged = np.broadcast_to(np.asarray(averaged, dtype=np.float64), len(scores))
    return CellScores(probabilities, np.zeros(len(scores), dtype=np.int64), np.asarray(scores), averaged)


def fitted(thresholds: Thresholds, scores: Any, best: Any = 0, **options: Any) -> tuple[RejectionRule, list[bool]]:
    """Return the rule for a query from the reference's own study, and True for each Unknown cell."""
    of_cells = scores_of(scores, best)
    chosen = options_of(AnnotateOptions, options or {"reference_cutoff": True})
    rule = fit_rejection(thresholds, chosen, NAMES, of_cells, ONE_BATCH, smoothed=True)
    return rule, [bool(cell) for cell in rule.is_unknown(of_cells)]


def rejected(thresholds: Thresholds, scores: Any, best: Any = 0, **options: Any) -> list[bool]:
    return fitted(thresholds, scores, best, **options)[1]


def test_scores_below_the_limit_are_unknown() -> None:
    assert rejected(calibrated(), [0.049, 0.05, 0.5]) == [True, False, False]
    rate = {"unknown_rate": 0.04, "reference_cutoff": True}
    assert rejected(calibrated(), [0.049, 0.05, 0.5], **rate) == [False, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], unknown_rate=0.0) == [False, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], threshold=1.0) == [False, False, False]


def fitted_default(**options: Any) -> tuple[RejectionRule, CellScores]:
    """Return the rule and the scores of a query whose last five cells are unlike their label."""
    random = np.random.default_rng(0)
    averaged = np.concatenate([random.normal(0, 0.2, 195), np.full(5, -9.0)])
    of_cells = scores_of(np.where(np.arange(200) % 2, 0.01, 0.9), 0, averaged)
    chosen = options_of(AnnotateOptions, options)
    return fit_rejection(calibrated(), chosen, NAMES, of_cells, ONE_BATCH, smoothed=True), of_cells


def test_a_cell_is_unknown_by_default_if_it_is_unlike_its_label() -> None:
    rule, of_cells = fitted_default()
    assert "OOD score above 0" in rule.rule
    assert (rule.limits, rule.unknown_rate, rule.false_rejection) == (None, None, None)
    np.testing.assert_array_equal(rule.is_unknown(of_cells), np.arange(200) >= 195)
    ood = rule.ood_scores(of_cells)
    assert ood is not None
    np.testing.assert_array_equal(ood > 0, np.arange(200) >= 195)


def test_a_given_rate_adds_the_reference_cutoffs_to_the_rule() -> None:
    rule, of_cells = fitted_default(unknown_rate=0.05)
    assert "95% of held-out cells" in rule.rule
    assert "OOD score above 0" in rule.rule
    assert rule.unknown_rate == 0.05
    np.testing.assert_array_equal(np.flatnonzero(rule.is_unknown(of_cells)), [195, 197, 199])
    same, of_cells = fitted_default(reference_cutoff=True)
    assert "95% of held-out cells" in same.rule
    assert same.ood_scores(of_cells) is None
    np.testing.assert_array_equal(same.is_unknown(of_cells), np.arange(200) % 2 == 1)
    np.testing.assert_array_equal(same.limits, rule.limits)
    assert same.false_rejection == rule.false_rejection


def test_cells_without_scores_are_not_rejected() -> None:
    probabilities, scores = np.eye(2)[[0, 0, 1]], np.array([0.01, 0.9, 0.01])
    rule, _ = fitted_default(reference_cutoff=True)
    batches = np.zeros(3, dtype=np.int64)
    assert rule.is_unknown(CellScores(probabilities, batches, scores)).tolist() == [True, False, True]
    assert not rule.is_unknown(CellScores(probabilities, batches)).any()


@pytest.mark.parametrize(
    ("options", "everything"),
    [
        ({}, True),
        ({"reference_cutoff": True}, True),
        ({"unknown_rate": 0.5}, True),
        ({"unknown_rate": 0.0}, False),
        ({"threshold": 0.5}, False),
    ],
    ids=str,
)
def test_all_cells_of_an_incompatible_query_are_unknown_unless_an_option_says_otherwise(
    options: dict[str, Any], everything: bool
) -> None:
    of_cells = scores_of([0.2, 0.9, 1e9], [0, 1, 1], [0.0, 0.0, 0.0])
    chosen = options_of(AnnotateOptions, options)
    rule = fit_rejection(calibrated(), chosen, NAMES, of_cells, ONE_BATCH, smoothed=True)
    assert not rule.is_unknown(of_cells).any()
    nowhere = rule.reject_all()
    assert nowhere.is_unknown(of_cells).tolist() == [everything] * 3
    assert (nowhere.rule == "the reference does not suit this query") == everything
    assert (nowhere == rule) != everything


def test_the_false_rejection_rate_holds_for_all_cells_and_for_each_label() -> None:
    random = np.random.default_rng(0)
    shares: dict[str, list[float]] = {"all": [], "a": [], "b": []}
    for _ in range(500):
        best = random.choice(2, 400, p=[0.7, 0.3])
        scores = random.normal(np.where(best == 0, 2.0, 0.0), np.where(best == 0, 1.0, 3.0))
        thresholds = calibrated(scores[:200], np.array(NAMES)[best[:200]])
        is_unknown = np.array(rejected(thresholds, scores[200:], best[200:]))
        shares["all"].append(is_unknown.mean())
        for label, name in enumerate(NAMES):
            shares[name].append(is_unknown[best[200:] == label].mean())
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    assert max(means.values()) <= 0.05, means
    assert means["b"] > 0.03, means  # cells of the harder label are rejected too


def test_the_false_rejection_of_another_study_is_estimated() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(0, 1, 1000), np.array(NAMES)[np.arange(1000) % 2])
    best = np.arange(600) % 2
    near, far = random.normal(0, 1, 600), random.normal(-2, 1, 600)
    rule, unknown = fitted(thresholds, far, best, reference_cutoff=True)
    assert np.mean(unknown) > 0.5
    assert rule.false_rejection == pytest.approx(np.mean(unknown), abs=0.1)
    assert fitted(thresholds, near, best)[0].false_rejection == pytest.approx(0.05, abs=0.03)
    # Cells of an unseen type in one label hardly raise the estimated false rejection rate.
    unseen = np.concatenate([near, random.normal(-9, 1, 200)])
    given = np.concatenate([best, np.zeros(200, dtype=int)])
    rule, unknown = fitted(thresholds, unseen, given)
    assert np.mean(unknown[600:]) == 1
    assert rule.false_rejection is not None
    assert rule.false_rejection < 0.3


def test_the_estimate_equals_a_loop_over_labels() -> None:
    random = np.random.default_rng(0)
    names = ("a", "b", "c", "d")
    thresholds = calibrated(random.normal(size=1000), np.array(names)[np.arange(1000) % 3])
    best, scores = random.choice(4, 400, p=[0.6, 0.3, 0.04, 0.06]), random.normal(-1, 2, 400)
    assert (np.bincount(best) >= 20).tolist() == [True, True, False, True]
    calibration = thresholds.smoothed
    assert calibration is not None
    shares = []
    for label in (0, 1):  # label c has too few cells, and label d has no calibration
        own = sorted(scores[best == label])
        middle = np.median(own)
        spread = [score for score in own if score >= middle]
        spread += [2 * middle - score for score in spread]
        shares.append(sum(score < calibration.everything.threshold(0.1) for score in spread) / len(spread))
    assert expected_false_rejection(calibration, names, best, scores, 0.1) == pytest.approx(sum(shares) / 2)


def test_fewer_than_20_cells_give_no_estimate() -> None:
    assert fitted(calibrated(), [0.01] * 19)[0].false_rejection is None
    assert fitted(calibrated(), [0.01] * 20)[0].false_rejection == 1


def test_a_fitted_rule_does_not_depend_on_the_chunk() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(size=1000), np.array(NAMES)[np.arange(1000) % 2])
    probabilities = random.dirichlet([1, 1], 500)
    of_cells = scores_of(random.normal(-1, 1, 500), None, random.standard_t(2, 500), probabilities)
    for options in ({}, {"reference_cutoff": True}, {"threshold": 0.8}):
        chosen = options_of(AnnotateOptions, options)
        rule = fit_rejection(thresholds, chosen, NAMES, of_cells, ONE_BATCH, smoothed=False)
        parts = [rule.is_unknown(of_cells.part(part)) for part in np.array_split(np.arange(500), 7)]
        whole = rule.is_unknown(of_cells)
        assert 0 < whole.sum() < 500
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert rule.is_unknown(of_cells.part(np.arange(0))).shape == (0,)


def test_settings_without_limits_and_ood_rule_are_json() -> None:
    rule, _ = fitted_default(unknown_rate=0.1)
    settings = {name: value for name, value in vars(rule).items() if name not in ("limits", "ood")}
    again = RejectionRule(**json.loads(json.dumps(settings)), limits=rule.limits, ood=rule.ood)
    assert again == rule
    assert rule.limits is not None
    assert rule.limits.shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown_rate": 1.0}, "unknown_rate is 1.0; expected a number of at least 0 and below 1"),
        ({"unknown_rate": -0.1}, "unknown_rate is -0.1; expected a number of at least 0 and below 1"),
        ({"threshold": 2.0}, "threshold is 2.0; expected a number of at least 0 and at most 1"),
        ({"threshold": float("nan")}, "threshold is nan; expected a number of at least 0 and at most 1"),
        ({"threshold": 0.5, "unknown_rate": 0.1}, "choose one"),
        ({"threshold": 0.5, "reference_cutoff": True}, "choose one"),
        ({"recalibrate": True}, "There is no option 'recalibrate'"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_of(AnnotateOptions, options)


def test_a_probability_at_the_threshold_is_kept() -> None:
    rule = RejectionRule("confidence below 0.5000", threshold=0.5)
    scores = CellScores(np.array([[0.5, 0.5], [0.4999, 0.3]]), np.zeros(2, dtype=np.int64))
    assert rule.is_unknown(scores).tolist() == [False, True]


def test_a_reference_of_format_1_keeps_its_rule_and_refuses_a_rate() -> None:
    old = Thresholds("maximum probability", 0.5, 0.05, 100, 0.95)
    scores = CellScores(np.array([[0.6, 0.4], [0.45, 0.55], [0.49, 0.48]]), np.zeros(3, dtype=np.int64))
    rule = fit_rejection(old, AnnotateOptions(), NAMES, scores, None, smoothed=True)
    assert rule == RejectionRule("confidence below 0.5000", threshold=0.5)
    assert rule.is_unknown(scores).tolist() == [False, False, True]
    none = fit_rejection(old, AnnotateOptions(unknown_rate=0.0), NAMES, scores, None, smoothed=True)
    assert not none.is_unknown(scores).any()
    for options in ({"unknown_rate": 0.02}, {"reference_cutoff": True}):
        with pytest.raises(ConfigError, match=r"format 1.*threshold=0.95 \(--threshold 0.95\)"):
            fit_rejection(old, options_of(AnnotateOptions, options), NAMES, scores, None, smoothed=True)


def ood_of(cutoff: float) -> OODRule:
    """Return an OOD rule with the same cut-off for two labels in one batch."""
    never = np.zeros((1, 2), dtype=bool)
    return OODRule(np.full((1, 2), cutoff), np.full((1, 2), np.nan), never, never)


@pytest.mark.parametrize(
    "rule",
    [
        RejectionRule("none"),
        RejectionRule("a threshold", threshold=0.0),
        RejectionRule("limits", limits=np.full(2, -np.inf)),
        RejectionRule("ood", ood=ood_of(-1e9)),
        RejectionRule("limits and ood", limits=np.full(2, -np.inf), ood=ood_of(-1e9)),
    ],
    ids=lambda rule: rule.rule,
)
def test_cells_without_valid_probabilities_are_unknown_by_every_rule(rule: RejectionRule) -> None:
    probabilities = np.array([[0.9, 0.1], [0.0, 0.0], [np.nan, np.nan], [np.nan, 1.0]])
    assert rule.is_unknown(scores_of(np.zeros(4), None, 0.0, probabilities)).tolist() == [False, True, True, True]


def test_nan_scores_are_below_every_limit() -> None:
    scores = scores_of([0.0, np.nan], 0, [np.nan, np.nan])
    assert RejectionRule("limits", limits=np.array([-5.0, -5.0])).is_unknown(scores).tolist() == [False, True]
    assert RejectionRule("ood", ood=ood_of(-5.0)).is_unknown(scores).tolist() == [True, True]
    both = RejectionRule("both", limits=np.array([5.0, 5.0]), ood=ood_of(-1.0))
    assert both.is_unknown(scores).tolist() == [True, True]


@pytest.mark.parametrize(
    ("confidence", "least"),
    [
        # Expected errors of 0.01, 0.09 and 0.3: the mean of the first two is 0.05, that of all 0.13.
        ([0.7, 0.99, 0.91], 0.805),
        ([0.7, np.nan, 0.99, 0.91], 0.805),
        ([0.99, 0.95, 0.93], None),
        ([0.6, 0.5, 0.9], 1.0),
        ([], None),
    ],
)
def test_the_least_confidence_keeps_the_mean_expected_error(confidence: list[float], least: float | None) -> None:
    probabilities = np.array([[value, 1 - value] for value in confidence]).reshape(-1, 2)
    assert least_confidence(probabilities) == (None if least is None else pytest.approx(least))


@pytest.mark.parametrize(
    ("options", "applies"),
    [({}, True), ({"unknown_rate": 0.05}, False), ({"reference_cutoff": True}, False), ({"threshold": 0.5}, False)],
)
def test_with_few_genes_uncertain_cells_are_unknown_by_default(options: dict[str, Any], applies: bool) -> None:
    certain = np.linspace(0.6, 1, 100)
    of_cells = scores_of(np.full(100, 0.9), averaged=0.0, probabilities=np.stack([certain, 1 - certain], axis=1))
    chosen = options_of(AnnotateOptions, options)
    rule = fit_rejection(calibrated(), chosen, NAMES, of_cells, ONE_BATCH, smoothed=True, few_genes=True)
    unknown = rule.is_unknown(of_cells)
    assert unknown.any() == applies
    if applies:
        assert rule.least_confidence is not None
        np.testing.assert_array_equal(unknown, certain < rule.least_confidence)
        assert (1 - certain[~unknown]).mean() <= 0.07
        assert "as the query has few genes" in rule.rule

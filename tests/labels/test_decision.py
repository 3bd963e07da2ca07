"""Cut-offs keep their promise, let cells be that stand by their label, and treat all cells of a query alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spikgpt.errors import ConfigError
from spikgpt.labels.decision import CellScores, Cutoffs, farther_share, fit_cutoffs
from spikgpt.labels.standing import LEAST_STANDING
from spikgpt.labels.thresholds import Thresholds
from spikgpt.options import AnnotateOptions, options_of
from tests.labels.test_thresholds import NAMES, calibrated


def fitted(
    thresholds: Thresholds, scores: Any, best: Any = 0, standing: Any = -9.0, **options: Any
) -> tuple[Cutoffs, list[bool]]:
    """Return the cut-offs of a query, and which of its cells are Unknown; by default all stand low."""
    probabilities = np.eye(2)[np.broadcast_to(best, len(scores))]
    chosen = options_of(AnnotateOptions, options)
    cutoffs = fit_cutoffs(thresholds, chosen, NAMES, probabilities, np.asarray(scores), smoothed=True)
    of_cells = CellScores(probabilities, np.asarray(scores), np.broadcast_to(standing, len(scores)))
    return cutoffs, [bool(cell) for cell in cutoffs.rejects(of_cells)]


def rejected(thresholds: Thresholds, scores: Any, best: Any = 0, standing: Any = -9.0, **options: Any) -> list[bool]:
    return fitted(thresholds, scores, best, standing, **options)[1]


def test_the_rank_of_familiarity_by_hand() -> None:
    assert rejected(calibrated(), [0.049, 0.05, 0.5]) == [True, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], unknown_rate=0.04) == [False, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], unknown_rate=0.0) == [False, False, False]
    assert rejected(calibrated(), [0.049, 0.05, 0.5], threshold=1.0) == [False, False, False]


def test_a_cell_is_unknown_if_it_is_unfamiliar_and_stands_apart() -> None:
    scores, standing = [0.01, 0.01, 0.01, 0.9, 0.9], [-1.3, -1.2, 3.0, -9.0, 0.0]
    cutoffs, unknown = fitted(calibrated(), scores, 0, standing)
    assert cutoffs.standing == LEAST_STANDING == -1.2
    assert unknown == [True, False, False, False, False]
    expected = "less familiar than 95% of held-out known cells, and apart from this query's cells of the label"
    assert cutoffs.rule == expected
    same, unknown = fitted(calibrated(), scores, 0, standing, same_study=True)
    assert same.standing is None
    assert same.rule == "less familiar than 95% of held-out known cells"
    assert unknown == [True, True, True, False, False]
    np.testing.assert_array_equal(same.limits, cutoffs.limits)
    assert same.farther == cutoffs.farther


def test_the_default_never_rejects_more_than_the_limits_alone() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(size=1000), np.array(NAMES)[np.arange(1000) % 2])
    scores, best, standing = random.normal(-1, 1, 500), random.integers(2, size=500), random.normal(-1, 1, 500)
    for rate in (0.01, 0.05, 0.5):
        by_default = np.array(rejected(thresholds, scores, best, standing, unknown_rate=rate))
        alone = np.array(rejected(thresholds, scores, best, standing, unknown_rate=rate, same_study=True))
        assert 0 < by_default.sum() < alone.sum()
        assert not (by_default & ~alone).any()


def test_cells_without_a_standing_are_held_against_the_limits_alone() -> None:
    probabilities, scores = np.eye(2)[[0, 0, 1]], np.array([0.01, 0.9, 0.01])
    for options in ({}, {"same_study": True}):
        asked = options_of(AnnotateOptions, options)
        cutoffs = fit_cutoffs(calibrated(), asked, NAMES, probabilities, scores, smoothed=True)
        assert cutoffs.rejects(CellScores(probabilities, scores)).tolist() == [True, False, True]
        assert not cutoffs.rejects(CellScores(probabilities)).any()


@pytest.mark.parametrize(
    ("options", "everything"),
    [
        ({}, True),
        ({"same_study": True}, True),
        ({"unknown_rate": 0.5}, True),
        ({"unknown_rate": 0.0}, False),
        ({"threshold": 0.5}, False),
    ],
    ids=str,
)
def test_of_a_query_that_the_reference_does_not_suit_all_is_unknown_unless_asked_otherwise(
    options: dict[str, Any], everything: bool
) -> None:
    cutoffs, unknown = fitted(calibrated(), [0.2, 0.9, 1e9], [0, 1, 1], [0.0, 9.0, 9.0], **options)
    assert not any(unknown)
    nowhere = cutoffs.of_no_label()
    scores = CellScores(np.eye(2)[[0, 1, 1]], np.array([0.2, 0.9, 1e9]), np.array([0.0, 9.0, 9.0]))
    assert nowhere.rejects(scores).tolist() == [everything] * 3
    assert (nowhere.rule == "the reference does not suit this query") == everything
    assert (nowhere == cutoffs) != everything


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


def test_how_many_cells_of_a_far_study_lie_below_the_limits_is_estimated() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(0, 1, 1000), np.array(NAMES)[np.arange(1000) % 2])
    best = np.arange(600) % 2
    near, far = random.normal(0, 1, 600), random.normal(-2, 1, 600)
    cutoffs, unknown = fitted(thresholds, far, best, same_study=True)
    assert np.mean(unknown) > 0.5
    assert cutoffs.farther == pytest.approx(np.mean(unknown), abs=0.1)
    assert fitted(thresholds, near, best)[0].farther == pytest.approx(0.05, abs=0.03)
    # Cells of an unseen type among those of one label do not make it look as if the study were far.
    unseen = np.concatenate([near, random.normal(-9, 1, 200)])
    given = np.concatenate([best, np.zeros(200, dtype=int)])
    cutoffs, unknown = fitted(thresholds, unseen, given)
    assert np.mean(unknown[600:]) == 1
    assert cutoffs.farther is not None
    assert cutoffs.farther < 0.3


def test_the_estimate_is_that_of_a_loop_over_labels() -> None:
    random = np.random.default_rng(0)
    names = ("a", "b", "c", "d")
    thresholds = calibrated(random.normal(size=1000), np.array(names)[np.arange(1000) % 3])
    best, scores = random.choice(4, 400, p=[0.6, 0.3, 0.04, 0.06]), random.normal(-1, 2, 400)
    assert (np.bincount(best) >= 20).tolist() == [True, True, False, True]
    calibration = thresholds.smoothed
    assert calibration is not None
    shares = []
    for label in (0, 1):  # of c there are too few cells, and d has no calibration
        own = sorted(scores[best == label])
        middle = np.median(own)
        spread = [score for score in own if score >= middle]
        spread += [2 * middle - score for score in spread]
        shares.append(sum(score < calibration.everything.threshold(0.1) for score in spread) / len(spread))
    assert farther_share(calibration, names, best, scores, 0.1) == pytest.approx(sum(shares) / 2)


def test_too_few_cells_tell_no_spread() -> None:
    assert fitted(calibrated(), [0.01] * 19)[0].farther is None
    assert fitted(calibrated(), [0.01] * 20)[0].farther == 1


def test_cells_are_judged_one_by_one_once_the_cutoffs_are_set() -> None:
    random = np.random.default_rng(0)
    thresholds = calibrated(random.normal(size=1000), np.array(NAMES)[np.arange(1000) % 2])
    probabilities, scores = random.dirichlet([1, 1], 500), random.normal(-1, 1, 500)
    of_cells = CellScores(probabilities, scores, random.normal(-1, 1, 500))
    for options in ({}, {"same_study": True}, {"threshold": 0.8}):
        asked = options_of(AnnotateOptions, options)
        cutoffs = fit_cutoffs(thresholds, asked, NAMES, probabilities, scores, smoothed=False)
        parts = [cutoffs.rejects(of_cells.part(part)) for part in np.array_split(np.arange(500), 7)]
        whole = cutoffs.rejects(of_cells)
        assert 0 < whole.sum() < 500
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert cutoffs.rejects(of_cells.part(np.arange(0))).shape == (0,)


def test_all_but_the_limits_are_json() -> None:
    cutoffs, _ = fitted(calibrated(), np.linspace(0, 1, 50), unknown_rate=0.1)
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
        ({"threshold": 0.5, "same_study": True}, "choose one"),
        ({"recalibrate": True}, "There is no option 'recalibrate'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_of(AnnotateOptions, options)


def test_a_probability_at_the_threshold_is_kept() -> None:
    cutoffs = Cutoffs("a probability below 0.5000", threshold=0.5)
    assert cutoffs.rejects(CellScores(np.array([[0.5, 0.5], [0.4999, 0.3]]))).tolist() == [False, True]


def test_a_reference_of_format_1_keeps_its_rule_and_promises_nothing() -> None:
    old = Thresholds("maximum probability", 0.5, 0.05, 100, 0.95)
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [0.49, 0.48]])
    cutoffs = fit_cutoffs(old, AnnotateOptions(), NAMES, probabilities, None, smoothed=True)
    assert cutoffs == Cutoffs("a probability below 0.5000", threshold=0.5)
    assert cutoffs.rejects(CellScores(probabilities)).tolist() == [False, False, True]
    none = fit_cutoffs(old, AnnotateOptions(unknown_rate=0.0), NAMES, probabilities, None, smoothed=True)
    assert not none.rejects(CellScores(probabilities)).any()
    for options in ({"unknown_rate": 0.02}, {"same_study": True}):
        with pytest.raises(ConfigError, match=r"before familiarity was measured.*threshold=0.95 \(--threshold 0.95\)"):
            fit_cutoffs(old, options_of(AnnotateOptions, options), NAMES, probabilities, None, smoothed=True)


@pytest.mark.parametrize(
    "cutoffs",
    [
        Cutoffs("none"),
        Cutoffs("a threshold", threshold=0.0),
        Cutoffs("limits", limits=np.full(2, -np.inf)),
        Cutoffs("limits and standing", limits=np.full(2, -np.inf), standing=-np.inf),
    ],
    ids=lambda cutoffs: cutoffs.rule,
)
def test_a_cell_of_which_nothing_is_said_is_unknown_by_every_rule(cutoffs: Cutoffs) -> None:
    probabilities = np.array([[0.9, 0.1], [0.0, 0.0], [np.nan, np.nan], [np.nan, 1.0]])
    scores = CellScores(probabilities, np.zeros(4), np.zeros(4))
    assert cutoffs.rejects(scores).tolist() == [False, True, True, True]


def test_a_score_that_is_no_number_is_below_every_limit() -> None:
    scores = CellScores(np.array([[0.9, 0.1]] * 2), np.array([0.0, np.nan]), np.array([np.nan, np.nan]))
    assert Cutoffs("limits", limits=np.array([-5.0, -5.0])).rejects(scores).tolist() == [False, True]
    assert Cutoffs("both", limits=np.array([5.0, 5.0]), standing=-1.0).rejects(scores).tolist() == [True, True]

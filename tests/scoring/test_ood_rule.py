"""The OOD rule follows its formula, and separates a missing type from a batch effect."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spikgpt.scoring.label_match import LabelMatch
from spikgpt.scoring.ood_rule import OODRule, ScoreAverager
from spikgpt.scoring.ood_scorer import OODEvidence
from spikgpt.types import Floats, Integers, Rows

Array = npt.NDArray[np.float64]
# Usual contrast of a known label.
KEPT = 2.4


def query(seed: int = 0, sizes: tuple[int, ...] = (80, 60, 50, 40, 30), n_batches: int = 2) -> tuple[Array, Any, Any]:
    """Return the scores averaged over neighbours, the labels and the batches of made-up cells."""
    random = np.random.default_rng(seed)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return random.normal(1, 0.3, len(best)), best, random.integers(n_batches, size=len(best))


def rule_of(x: Array, best: Integers, batches: Integers, contrasts: Any = KEPT, **changed: Any) -> OODRule:
    n_labels = int(best.max()) + 1
    shape = int(batches.max()) + 1, n_labels
    cells = np.zeros(shape, dtype=np.int64)
    np.add.at(cells, (batches, best), 1)
    match = LabelMatch(np.broadcast_to(contrasts, shape), np.zeros(shape), cells)
    shares = np.bincount(best, minlength=n_labels) / len(best)
    own = {"held_out_medians": np.zeros(n_labels), "held_out_shares": shares} | changed
    return OODRule.fit(x, best, batches, match, **own)


def unknown(x: Array, best: Integers, batches: Integers, contrasts: Any = KEPT, **changed: Any) -> Any:
    return rule_of(x, best, batches, contrasts, **changed).margins(x, best, batches) < 0


def test_cutoffs_equal_the_formula_in_plain_loops() -> None:
    random = np.random.default_rng(1)
    x, best, batches = query(1, (100, 80, 60, 9))
    x -= 1.5 * (best == 2)
    contrasts, baselines = random.normal(2, 0.5, (2, 4)), random.normal(0, 0.3, 4)
    shares = np.array([0.5, 0.4, 0.05, 0.05])
    rule = rule_of(x, best, batches, contrasts, held_out_medians=baselines, held_out_shares=shares)
    for batch in range(2):
        cells_of_batch = [cell for cell in range(len(x)) if batches[cell] == batch]
        own = {
            label: [x[cell] - 0.5 * baselines[label] for cell in cells_of_batch if best[cell] == label]
            for label in range(4)
        }
        levels = {label: float(np.quantile(values, 0.9)) for label, values in own.items() if len(values) >= 10}
        middle = float(np.median(list(levels.values())))
        for label in range(4):
            e = levels[label] - middle if label in levels else 0.0
            n = np.log((len(own[label]) / len(cells_of_batch) + 0.01) / (shares[label] + 0.01))
            cut = max(e, 0) + 0.65 * min(e, 0) + (0.6 * min(max(n, 0), 1) if e < 0 else 0)
            cut += middle + 0.5 * baselines[label] - 0.6 * contrasts[batch, label] - 1
            # Labels 0 to 2 have a similar share of known cells in the other batch, which lowers their cut-offs.
            cut -= 0.6 * 0.4 * (label != 3)
            assert rule.cutoffs[batch, label] == pytest.approx(cut)


def test_no_cell_is_unknown_in_a_batch_that_is_far_as_a_whole() -> None:
    x, best, batches = query()
    far = x - 5 * (batches == 1)
    assert not unknown(far, best, batches).any()
    # If both batches count as one, the cells of the far batch fall below the level of the other cells.
    pooled = unknown(far, best, np.zeros_like(batches))
    assert pooled[batches == 1].mean() > 0.9


def test_a_label_with_low_scores_is_known_while_it_keeps_its_contrast() -> None:
    x, best, batches = query()
    changed = best == 2
    contrasts = np.full((2, 5), KEPT)
    assert not unknown(x - 2.0 * changed, best, batches, contrasts).any()
    contrasts[:, 2] = 0.0
    np.testing.assert_array_equal(unknown(x - 2.0 * changed, best, batches, contrasts)[changed].mean() > 0.5, True)
    assert not unknown(x - 2.0 * changed, best, batches, contrasts)[~changed].any()


def test_more_cells_than_expected_raise_the_cutoff_of_a_label_with_low_scores() -> None:
    x, best, batches = query(n_batches=1)
    low = x - 1.0 * (best == 2)
    expected = np.bincount(best) / len(best)
    fewer = np.where(np.arange(5) == 2, 0.01, expected)
    before, after = (rule_of(low, best, batches, held_out_shares=shares) for shares in (expected, fewer))
    np.testing.assert_allclose((after.cutoffs - before.cutoffs)[:, 2], 0.6 * 1, atol=1e-9)
    np.testing.assert_allclose(np.delete(after.cutoffs - before.cutoffs, 2, axis=1), 0, atol=1e-9)


def test_the_lower_of_two_groups_of_a_label_is_unknown() -> None:
    random = np.random.default_rng(0)
    best, batches = np.repeat([0, 1, 2], 100), np.zeros(300, dtype=np.int64)
    x = random.normal(1, 0.2, 300)
    for size in (20, 80):
        lower = (best == 0) & (np.arange(300) < size)
        is_unknown = unknown(x - 2.6 * lower, best, batches)
        np.testing.assert_array_equal(is_unknown, lower)
    # A few cells, or cells with slightly lower scores, form no group.
    for size, gap in ((14, 1.5), (50, 0.5)):
        assert not unknown(x - gap * ((best == 0) & (np.arange(300) < size)), best, batches).any()


def test_margins_depend_on_neither_chunks_nor_order() -> None:
    x, best, batches = query()
    rule = rule_of(x, best, batches)
    whole = rule.margins(x, best, batches)
    order = np.random.default_rng(2).permutation(len(x))
    parts = [rule.margins(x[part], best[part], batches[part]) for part in np.array_split(order, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    again = rule_of(x[order], best[order], batches[order]).margins(x[order], best[order], batches[order])
    np.testing.assert_allclose(again, whole[order], atol=1e-9)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 40])
def test_small_samples_have_margins(size: int) -> None:
    random = np.random.default_rng(0)
    x, best, batches = random.normal(size=size), random.integers(3, size=size), np.zeros(size, dtype=np.int64)
    match = LabelMatch(np.full((1, 3), KEPT), np.zeros((1, 3)), np.bincount(best, minlength=3)[None])
    rule = OODRule.fit(x, best, batches, match, np.zeros(3), np.full(3, 1 / 3))
    assert np.isfinite(rule.cutoffs).all()
    assert np.isfinite(rule.margins(x, best, batches)).all()


def test_the_cutoff_is_lower_if_another_batch_has_the_label_in_the_same_share() -> None:
    x, best, batches = query(5, (200, 150, 100))

    def cutoff(kept: Any, low: Any) -> float:
        """Return the cut-off of label 1 in batch 1 for the cells in ``kept``; subtract 9 from scores in ``low``."""
        return float(rule_of(np.where(low, x - 9, x)[kept], best[kept], batches[kept]).cutoffs[1, 1])

    everywhere, nowhere = np.ones(len(x), dtype=bool), np.zeros(len(x), dtype=bool)
    in_other_batch, gain = (best == 1) & (batches == 0), 0.6 * 0.4
    whole = cutoff(everywhere, nowhere)
    # The cut-off is not lowered if the other batch has no or few cells of the label, or only Unknown cells.
    rare = ~in_other_batch | (np.cumsum(in_other_batch) <= 25)
    for kept, low in ((rare, nowhere), (~in_other_batch, nowhere), (everywhere, in_other_batch)):
        assert cutoff(kept, low) - whole > gain - 0.05


def test_a_missing_type_without_the_markers_of_its_label_is_unknown() -> None:
    x, best, batches = query(4)
    low = np.where(best == 1, x - 4.0, x)
    support = np.full((2, 5), KEPT)
    assert unknown(low, best, batches, support)[best == 1].mean() < 0.2
    support[:, 1] += 1.5 * (0.0 - 0.7)
    assert unknown(low, best, batches, support)[best == 1].mean() > 0.5
    assert not unknown(low, best, batches, support)[best != 1].any()


def by_hand(evidence: OODEvidence, best: Integers, batches: Integers, neighbours: Rows) -> list[float]:
    """Return averaged scores by plain loops, with all cells as the sample."""
    cells = range(len(best))
    scores = list(evidence.id_score)
    if evidence.marker_excess is not None:
        usual = {}
        for batch in set(batches.tolist()):
            by_label: dict[int, list[float]] = {}
            for cell in cells:
                if batches[cell] == batch:
                    by_label.setdefault(int(best[cell]), []).append(evidence.marker_excess[cell])
            enough = [float(np.median(values)) for values in by_label.values() if len(values) >= 10]
            usual[batch] = np.median(enough or sum(by_label.values(), []))
        scores = [scores[cell] - min(evidence.marker_excess[cell] - usual[batches[cell]], 0.5) for cell in cells]
    for _ in range(2):
        scores = [0.2 * scores[cell] + 0.8 * np.mean([scores[other] for other in neighbours[cell]]) for cell in cells]
    return scores


def made_up(seed: int = 0, sizes: tuple[int, ...] = (80, 60, 50, 40, 30)) -> tuple[Array, Integers, Integers, Rows]:
    """Return ID scores, labels, batches and neighbours of made-up cells; neighbours share a label."""
    random = np.random.default_rng(seed)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    neighbours = np.stack([random.choice(np.flatnonzero(best == label), 14) for label in best])
    return random.normal(1, 0.3, len(best)), best, random.integers(2, size=len(best)), neighbours


def averaged(id_score: Floats, best: Integers, batches: Integers, neighbours: Rows, excess: Any = None) -> Array:
    evidence = OODEvidence(np.asarray(id_score, dtype=np.float64), excess)
    return ScoreAverager.fit(evidence, best, batches, neighbours).average(evidence, batches, neighbours)


@pytest.mark.parametrize("with_excess", [True, False])
@pytest.mark.parametrize("sizes", [(100, 80, 60, 20, 10, 9), (150,), (50, 0, 50, 3)])
@pytest.mark.parametrize("n_batches", [1, 3])
def test_averaged_scores_equal_a_loop_over_cells(sizes: tuple[int, ...], with_excess: bool, n_batches: int) -> None:
    random = np.random.default_rng(1)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    batches, neighbours = random.integers(n_batches, size=len(best)), random.integers(len(best), size=(len(best), 14))
    excess = random.gamma(2, 0.5, len(best)) + batches if with_excess else None
    evidence = OODEvidence(random.normal(np.arange(len(sizes))[best], 1), excess)
    averages = ScoreAverager.fit(evidence, best, batches, neighbours).average(evidence, batches, neighbours)
    np.testing.assert_allclose(averages, by_hand(evidence, best, batches, neighbours), atol=1e-12)


def test_cells_outside_the_sample_are_averaged_with_neighbours_in_the_sample() -> None:
    random = np.random.default_rng(0)
    id_score, best, batches, neighbours = made_up()
    fitted = ScoreAverager.fit(OODEvidence(id_score, random.gamma(2, 0.5, len(best))), best, batches, neighbours)
    around = neighbours[:1]
    alone = -2.0 - min(1.0 - fitted.median_excess[1], 0.5)
    once = 0.2 * alone + 0.8 * fitted.scores[around[0]].mean()
    twice = 0.2 * once + 0.8 * fitted.averaged[around[0]].mean()
    assert fitted.average(OODEvidence(np.array([-2.0]), np.array([1.0])), np.array([1]), around) == pytest.approx(twice)


def test_averaged_scores_depend_on_neither_chunks_nor_order() -> None:
    id_score, best, batches, neighbours = made_up()
    excess = np.random.default_rng(3).gamma(2, 0.5, len(best))
    fitted = ScoreAverager.fit(OODEvidence(id_score, excess), best, batches, neighbours)
    whole = fitted.average(OODEvidence(id_score, excess), batches, neighbours)
    parts = np.array_split(np.random.default_rng(4).permutation(len(best)), 7)
    for part in parts:
        some = fitted.average(OODEvidence(id_score[part], excess[part]), batches[part], neighbours[part])
        np.testing.assert_allclose(some, whole[part], atol=1e-12)
    order = np.concatenate(parts)
    position = np.argsort(order)
    again = averaged(id_score[order], best[order], batches[order], position[neighbours[order]], excess[order])
    np.testing.assert_allclose(again, whole[order], atol=1e-12)


def test_one_odd_cell_scores_like_its_neighbours() -> None:
    id_score, best, batches, neighbours = made_up()
    odd = int(np.flatnonzero(best == 0)[0])
    neighbours[neighbours == odd] = neighbours[odd, 0]
    before = averaged(id_score, best, batches, neighbours)
    id_score[odd] -= 5
    after = averaged(id_score, best, batches, neighbours)
    assert before[odd] - after[odd] == pytest.approx(0.2**2 * 5, abs=0.02)
    np.testing.assert_allclose(np.delete(after, odd), np.delete(before, odd), atol=0.02)


def test_marker_excess_lowers_scores_up_to_a_bound_unless_the_whole_batch_has_it() -> None:
    id_score, best, batches, neighbours = made_up()
    nothing = np.zeros(len(best))
    plain = averaged(id_score, best, batches, neighbours)
    np.testing.assert_allclose(averaged(id_score, best, batches, neighbours, nothing), plain, atol=1e-12)
    np.testing.assert_allclose(averaged(id_score, best, batches, neighbours, nothing + 3 * batches), plain, atol=1e-12)
    strange = np.flatnonzero(best == 0)[:20]  # 20 of the 80 cells of this label
    neighbours[strange] = np.random.default_rng(5).choice(strange, (20, 14))
    apart = averaged(id_score, best, batches, neighbours)
    for much in (0.3, 0.5, 4.0):
        excess = nothing.copy()
        excess[strange] = much
        fallen = apart - averaged(id_score, best, batches, neighbours, excess)
        np.testing.assert_allclose(fallen[strange], min(much, 0.5), atol=0.1)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99])
@pytest.mark.parametrize("with_excess", [True, False])
def test_small_samples_without_neighbours_have_averaged_scores(size: int, with_excess: bool) -> None:
    random = np.random.default_rng(0)
    evidence = OODEvidence(random.normal(size=size), random.random(size) if with_excess else None)
    best, batches, neighbours = random.integers(3, size=size), np.zeros(size, int), np.empty((size, 0), dtype=np.int64)
    averages = ScoreAverager.fit(evidence, best, batches, neighbours).average(evidence, batches, neighbours)
    assert averages.shape == (size,)
    assert np.isfinite(averages).all()

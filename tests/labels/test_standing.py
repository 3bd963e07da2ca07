"""Standing is what its formulas say, and tells a type that a query has beside its label from a change of a study."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spikgpt.labels.familiarity import Evidence
from spikgpt.labels.standing import LEAST_STANDING, Standing
from spikgpt.types import Floats, Integers, Rows

Array = npt.NDArray[np.float64]


def by_hand(evidence: Evidence, best: Integers, near: Rows, labels: int) -> list[float]:
    """Return the standing of cells that are their own sample, in plain loops."""
    cells = range(len(best))
    sizes = {label: int((best == label).sum()) for label in range(labels)}

    def of_labels(values: Any, share: float) -> dict[int, float]:
        own = {label: [values[cell] for cell in cells if best[cell] == label] for label in sizes if sizes[label] >= 10}
        return {label: float(np.quantile(numbers, share)) for label, numbers in own.items()}

    scores = list(evidence.familiarity)
    if evidence.novelty is not None:
        usual = np.median(list(of_labels(evidence.novelty, 0.5).values()))
        scores = [scores[cell] - min(evidence.novelty[cell] - usual, 0.5) for cell in cells]
    for _ in range(2):
        scores = [0.2 * scores[cell] + 0.8 * np.mean([scores[other] for other in near[cell]]) for cell in cells]
    reached = of_labels(scores, 0.9)
    middle = float(np.median(list(reached.values())))
    levels = {label: 0.35 * middle + 0.65 * reached.get(label, middle) for label in sizes}
    return [scores[cell] - levels[best[cell]] for cell in cells]


def query(seed: int = 0, sizes: tuple[int, ...] = (80, 60, 50, 40, 30)) -> tuple[Array, Integers, Rows]:
    """Give familiarity, labels and neighbours of made-up cells; the neighbours are of the same label."""
    random = np.random.default_rng(seed)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    near = np.stack([random.choice(np.flatnonzero(best == label), 14) for label in best])
    return random.normal(1, 0.3, len(best)), best, near


def standing(familiarity: Floats, best: Integers, near: Rows, novelty: Array | None = None) -> Array:
    evidence = Evidence(np.asarray(familiarity, dtype=np.float64), novelty)
    return Standing.fit(evidence, best, near, int(best.max()) + 1).of(evidence, best, near)


@pytest.mark.parametrize("with_novelty", [True, False])
@pytest.mark.parametrize("sizes", [(100, 80, 60, 20, 10, 9), (150,), (50, 0, 50, 3)])
def test_standing_is_that_of_a_loop_over_cells(sizes: tuple[int, ...], with_novelty: bool) -> None:
    random = np.random.default_rng(1)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    near = random.integers(len(best), size=(len(best), 14))
    novelty = random.gamma(2, 0.5, len(best)) if with_novelty else None
    evidence = Evidence(random.normal(np.arange(len(sizes))[best], 1), novelty)
    found = Standing.fit(evidence, best, near, len(sizes)).of(evidence, best, near)
    np.testing.assert_allclose(found, by_hand(evidence, best, near, len(sizes)), atol=1e-12)


def test_cells_beside_the_sample_stand_by_their_neighbours_in_it() -> None:
    random = np.random.default_rng(0)
    familiarity, best, near = query()
    novelty = random.gamma(2, 0.5, len(best))
    fitted = Standing.fit(Evidence(familiarity, novelty), best, near, 5)
    cell = Evidence(np.array([-2.0]), np.array([1.0]))
    around = near[:1]
    alone = -2.0 - min(1.0 - fitted.novelty, 0.5)
    once = 0.2 * alone + 0.8 * fitted.alone[around[0]].mean()
    twice = 0.2 * once + 0.8 * fitted.averaged[around[0]].mean()
    assert fitted.of(cell, best[:1], around) == pytest.approx(twice - fitted.levels[best[0]])


def test_standing_depends_on_neither_chunks_nor_order() -> None:
    familiarity, best, near = query()
    novelty = np.random.default_rng(3).gamma(2, 0.5, len(best))
    evidence = Evidence(familiarity, novelty)
    fitted = Standing.fit(evidence, best, near, 5)
    whole = fitted.of(evidence, best, near)
    parts = np.array_split(np.random.default_rng(4).permutation(len(best)), 7)
    for part in parts:
        some = fitted.of(Evidence(familiarity[part], novelty[part]), best[part], near[part])
        np.testing.assert_allclose(some, whole[part], atol=1e-12)
    order = np.concatenate(parts)
    place = np.argsort(order)
    again = standing(familiarity[order], best[order], place[near[order]], novelty[order])
    np.testing.assert_allclose(again, whole[order], atol=1e-12)


def test_a_query_that_lies_far_away_as_a_whole_stands_as_if_it_were_near() -> None:
    familiarity, best, near = query()
    np.testing.assert_allclose(standing(familiarity - 50, best, near), standing(familiarity, best, near), atol=1e-9)


def test_a_label_whose_cells_are_all_changed_alike_is_not_rejected() -> None:
    familiarity, best, near = query()
    changed = best == 2
    before, after = (standing(familiarity - far * changed, best, near) for far in (0.0, 2.0))
    assert (after > LEAST_STANDING).all()
    # A share of it counts, so that a label which lies very far away is rejected after all.
    np.testing.assert_allclose(before[changed] - after[changed], 0.35 * 2, atol=0.05)
    np.testing.assert_allclose(before[~changed], after[~changed], atol=0.05)
    assert (standing(familiarity - 5.0 * changed, best, near)[changed] < LEAST_STANDING).all()


def test_cells_far_from_the_others_of_their_label_are_rejected() -> None:
    familiarity, best, near = query()
    random = np.random.default_rng(5)
    given = np.flatnonzero(best == 1)
    strange = given[:20]  # of 60
    for cells in (strange, given[20:]):
        near[cells] = random.choice(cells, (len(cells), 14))
    familiarity[strange] -= 3
    low = standing(familiarity, best, near) < LEAST_STANDING
    np.testing.assert_array_equal(np.flatnonzero(low), np.sort(strange))
    # So they are where the query has no other label.
    only = np.flatnonzero(best == 1)
    place = np.full(len(best), -1)
    place[only] = np.arange(60)
    low = standing(familiarity[only], np.zeros(60, dtype=np.int64), place[near[only]]) < LEAST_STANDING
    np.testing.assert_array_equal(only[low], np.sort(strange))


def test_one_odd_cell_among_its_like_stands_with_them() -> None:
    familiarity, best, near = query()
    odd = int(np.flatnonzero(best == 0)[0])
    near[near == odd] = near[odd, 0]
    before = standing(familiarity, best, near)
    familiarity[odd] -= 5
    after = standing(familiarity, best, near)
    assert before[odd] - after[odd] == pytest.approx(0.2**2 * 5, abs=0.02)
    np.testing.assert_allclose(np.delete(after, odd), np.delete(before, odd), atol=0.02)


def test_novelty_counts_against_cells_up_to_a_bound_and_not_where_all_have_it() -> None:
    familiarity, best, near = query()
    nothing = np.zeros(len(best))
    plain = standing(familiarity, best, near)
    np.testing.assert_allclose(standing(familiarity, best, near, nothing), plain, atol=1e-12)
    np.testing.assert_allclose(standing(familiarity, best, near, nothing + 3), plain, atol=1e-12)
    strange = np.flatnonzero(best == 0)[:20]  # of 80
    near[strange] = np.random.default_rng(5).choice(strange, (20, 14))
    apart = standing(familiarity, best, near)
    for much in (0.3, 0.5, 4.0):
        novelty = nothing.copy()
        novelty[strange] = much
        fallen = apart - standing(familiarity, best, near, novelty)
        np.testing.assert_allclose(fallen[strange], min(much, 0.5), atol=0.1)


def test_a_label_of_few_cells_is_held_against_the_others() -> None:
    familiarity, best, near = query(sizes=(80, 60, 9))
    few = best == 2
    fitted = Standing.fit(Evidence(familiarity - 4 * few, None), best, near, 3)
    assert fitted.levels[2] == pytest.approx(np.median(fitted.levels[:2]), abs=0.2)
    assert (standing(familiarity - 4 * few, best, near)[few] < LEAST_STANDING).all()
    assert (standing(familiarity - 4 * few, best, near)[~few] > LEAST_STANDING).all()


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99])
@pytest.mark.parametrize("with_novelty", [True, False])
def test_small_samples_without_neighbours_have_a_standing(size: int, with_novelty: bool) -> None:
    random = np.random.default_rng(0)
    evidence = Evidence(random.normal(size=size), random.random(size) if with_novelty else None)
    best, near = random.integers(3, size=size), np.empty((size, 0), dtype=np.int64)
    fitted = Standing.fit(evidence, best, near, 3)
    assert np.isfinite(fitted.levels).all()
    found = fitted.of(evidence, best, near)
    assert found.shape == (size,)
    assert np.isfinite(found).all()
    if size == 1:
        assert found == pytest.approx(0)


def of_two_groups(upper: int, lower: int, gap: float) -> tuple[Array, Integers]:
    """Give the standing of cells of three labels, and whether each belongs to the lower group of the first label."""
    random = np.random.default_rng(5)
    best = np.repeat(np.arange(3), (upper + lower, 60, 60))
    is_lower = (best == 0) & (np.arange(len(best)) >= upper)
    group = 10 * best + is_lower
    near = np.stack([random.choice(np.flatnonzero(group == own), 14) for own in group])
    return standing(random.normal(1, 0.3, len(best)) - gap * is_lower, best, near), is_lower


@pytest.mark.parametrize(("upper", "lower"), [(40, 60), (8, 150), (5, 15)])
def test_a_larger_group_below_the_cells_of_its_label_stands_apart(upper: int, lower: int) -> None:
    found, is_lower = of_two_groups(upper, lower, gap=1.1)
    assert (found[is_lower] < LEAST_STANDING).all()
    assert (found[~is_lower] > LEAST_STANDING).all()


@pytest.mark.parametrize(
    ("upper", "lower", "gap"), [(60, 40, 1.0), (4, 80, 1.0), (40, 60, 0.4), (4, 15, 1.0), (0, 90, 1.0)]
)
def test_no_group_stands_apart_that_is_smaller_or_close_or_beside_few_cells(upper: int, lower: int, gap: float) -> None:
    found, _ = of_two_groups(upper, lower, gap)
    assert (found > LEAST_STANDING).all()

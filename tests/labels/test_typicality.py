"""Typicality is what its formulas say, batch by batch, whatever the chunks and the order of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spikgpt.labels.familiarity import Evidence
from spikgpt.labels.typicality import Typicality
from spikgpt.types import Floats, Integers, Rows

Array = npt.NDArray[np.float64]


def by_hand(evidence: Evidence, best: Integers, batches: Integers, near: Rows) -> list[float]:
    """Return the typicality of cells that are their own sample, in plain loops."""
    cells = range(len(best))
    scores = list(evidence.familiarity)
    if evidence.novelty is not None:
        usual = {}
        for batch in set(batches.tolist()):
            by_label: dict[int, list[float]] = {}
            for cell in cells:
                if batches[cell] == batch:
                    by_label.setdefault(int(best[cell]), []).append(evidence.novelty[cell])
            enough = [float(np.median(values)) for values in by_label.values() if len(values) >= 10]
            usual[batch] = np.median(enough or sum(by_label.values(), []))
        scores = [scores[cell] - min(evidence.novelty[cell] - usual[batches[cell]], 0.5) for cell in cells]
    for _ in range(2):
        scores = [0.2 * scores[cell] + 0.8 * np.mean([scores[other] for other in near[cell]]) for cell in cells]
    return scores


def query(seed: int = 0, sizes: tuple[int, ...] = (80, 60, 50, 40, 30)) -> tuple[Array, Integers, Integers, Rows]:
    """Give familiarity, labels, batches and neighbours of made-up cells; the neighbours are of the same label."""
    random = np.random.default_rng(seed)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    near = np.stack([random.choice(np.flatnonzero(best == label), 14) for label in best])
    return random.normal(1, 0.3, len(best)), best, random.integers(2, size=len(best)), near


def typicality(familiarity: Floats, best: Integers, batches: Integers, near: Rows, novelty: Any = None) -> Array:
    evidence = Evidence(np.asarray(familiarity, dtype=np.float64), novelty)
    return Typicality.fit(evidence, best, batches, near).of(evidence, batches, near)


@pytest.mark.parametrize("with_novelty", [True, False])
@pytest.mark.parametrize("sizes", [(100, 80, 60, 20, 10, 9), (150,), (50, 0, 50, 3)])
@pytest.mark.parametrize("n_batches", [1, 3])
def test_typicality_is_that_of_a_loop_over_cells(sizes: tuple[int, ...], with_novelty: bool, n_batches: int) -> None:
    random = np.random.default_rng(1)
    best = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    batches, near = random.integers(n_batches, size=len(best)), random.integers(len(best), size=(len(best), 14))
    novelty = random.gamma(2, 0.5, len(best)) + batches if with_novelty else None
    evidence = Evidence(random.normal(np.arange(len(sizes))[best], 1), novelty)
    found = Typicality.fit(evidence, best, batches, near).of(evidence, batches, near)
    np.testing.assert_allclose(found, by_hand(evidence, best, batches, near), atol=1e-12)


def test_cells_beside_the_sample_are_averaged_with_their_neighbours_in_it() -> None:
    random = np.random.default_rng(0)
    familiarity, best, batches, near = query()
    fitted = Typicality.fit(Evidence(familiarity, random.gamma(2, 0.5, len(best))), best, batches, near)
    around = near[:1]
    alone = -2.0 - min(1.0 - fitted.novelty[1], 0.5)
    once = 0.2 * alone + 0.8 * fitted.alone[around[0]].mean()
    twice = 0.2 * once + 0.8 * fitted.averaged[around[0]].mean()
    assert fitted.of(Evidence(np.array([-2.0]), np.array([1.0])), np.array([1]), around) == pytest.approx(twice)


def test_typicality_depends_on_neither_chunks_nor_order() -> None:
    familiarity, best, batches, near = query()
    novelty = np.random.default_rng(3).gamma(2, 0.5, len(best))
    fitted = Typicality.fit(Evidence(familiarity, novelty), best, batches, near)
    whole = fitted.of(Evidence(familiarity, novelty), batches, near)
    parts = np.array_split(np.random.default_rng(4).permutation(len(best)), 7)
    for part in parts:
        some = fitted.of(Evidence(familiarity[part], novelty[part]), batches[part], near[part])
        np.testing.assert_allclose(some, whole[part], atol=1e-12)
    order = np.concatenate(parts)
    place = np.argsort(order)
    again = typicality(familiarity[order], best[order], batches[order], place[near[order]], novelty[order])
    np.testing.assert_allclose(again, whole[order], atol=1e-12)


def test_one_odd_cell_among_its_like_is_as_typical_as_they_are() -> None:
    familiarity, best, batches, near = query()
    odd = int(np.flatnonzero(best == 0)[0])
    near[near == odd] = near[odd, 0]
    before = typicality(familiarity, best, batches, near)
    familiarity[odd] -= 5
    after = typicality(familiarity, best, batches, near)
    assert before[odd] - after[odd] == pytest.approx(0.2**2 * 5, abs=0.02)
    np.testing.assert_allclose(np.delete(after, odd), np.delete(before, odd), atol=0.02)


def test_novelty_counts_against_cells_up_to_a_bound_and_not_where_their_batch_has_it() -> None:
    familiarity, best, batches, near = query()
    nothing = np.zeros(len(best))
    plain = typicality(familiarity, best, batches, near)
    np.testing.assert_allclose(typicality(familiarity, best, batches, near, nothing), plain, atol=1e-12)
    np.testing.assert_allclose(typicality(familiarity, best, batches, near, nothing + 3 * batches), plain, atol=1e-12)
    strange = np.flatnonzero(best == 0)[:20]  # of 80
    near[strange] = np.random.default_rng(5).choice(strange, (20, 14))
    apart = typicality(familiarity, best, batches, near)
    for much in (0.3, 0.5, 4.0):
        novelty = nothing.copy()
        novelty[strange] = much
        fallen = apart - typicality(familiarity, best, batches, near, novelty)
        np.testing.assert_allclose(fallen[strange], min(much, 0.5), atol=0.1)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99])
@pytest.mark.parametrize("with_novelty", [True, False])
def test_small_samples_without_neighbours_have_a_typicality(size: int, with_novelty: bool) -> None:
    random = np.random.default_rng(0)
    evidence = Evidence(random.normal(size=size), random.random(size) if with_novelty else None)
    best, batches, near = random.integers(3, size=size), np.zeros(size, int), np.empty((size, 0), dtype=np.int64)
    found = Typicality.fit(evidence, best, batches, near).of(evidence, batches, near)
    assert found.shape == (size,)
    assert np.isfinite(found).all()

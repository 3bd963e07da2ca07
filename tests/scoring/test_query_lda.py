"""The discriminant analysis of a query equals a slow loop, and decides where the classifier is uncertain."""

from __future__ import annotations

import numpy as np
import pytest

from spikgpt.scoring.query_lda import LDA, QueryLDA
from spikgpt.types import Floats


def made_up(cells: int = 400) -> tuple[Floats, Floats, np.ndarray]:
    """Return where cells of three labels lie, how probable these are of each, and the true ones."""
    random = np.random.default_rng(0)
    truth = random.integers(3, size=cells)
    points = random.normal(size=(cells, 4)) * [1, 3, 1, 0.2] + 6 * np.eye(3, 4)[truth]
    return points, random.dirichlet(np.ones(3), cells) * 0.6 + 0.4 * np.eye(3)[truth], truth


def slow(points: Floats, probabilities: Floats) -> np.ndarray:
    """Weigh each cell by loops, with the deviation within labels summed up cell by cell."""
    cells, size = probabilities.shape
    means = [np.average(points, axis=0, weights=probabilities[:, label]) for label in range(size)]
    within = np.zeros((points.shape[1],) * 2)
    for cell in range(cells):
        for label in range(size):
            away = points[cell] - means[label]
            within += probabilities[cell, label] * np.outer(away, away) / probabilities.sum()
    within = (1 - LDA.shrinkage) * within + LDA.shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    weighted = np.empty(probabilities.shape)
    for cell in range(cells):
        for label in range(size):
            away = points[cell] - means[label]
            distance = away @ np.linalg.solve(within, away)
            weighted[cell, label] = probabilities[cell, label] * np.exp(-LDA.weight / 2 * distance)
        weighted[cell] *= probabilities[cell].sum() / weighted[cell].sum()
    return weighted


def test_the_weights_are_those_of_slow_loops() -> None:
    points, probabilities, _ = made_up()

    found = QueryLDA.fit(points, probabilities).reweight(probabilities, points)

    np.testing.assert_allclose(found, slow(points, probabilities), rtol=1e-9)


def test_uncertain_cells_get_the_label_with_the_nearest_mean() -> None:
    points, probabilities, truth = made_up()
    torn = np.arange(len(truth)) % 4 == 0
    probabilities[torn] = 1 / 3

    found = QueryLDA.fit(points, probabilities).reweight(probabilities, points)

    assert (found[torn].argmax(axis=1) == truth[torn]).mean() > 0.95


def test_sure_cells_keep_their_label() -> None:
    points, _, truth = made_up()
    sure = 0.97 * np.eye(3)[(truth + 1) % 3] + 0.01
    # Most are sure of the right one, some of a wrong one.
    sure[10:] = 0.97 * np.eye(3)[truth[10:]] + 0.01

    found = QueryLDA.fit(points, sure).reweight(sure, points)

    assert np.array_equal(found[:10].argmax(axis=1), (truth[:10] + 1) % 3)


@pytest.mark.parametrize("distance", [1e3, 1e8])
def test_however_far_a_cell_lies_its_probabilities_stay_finite_and_sum_up_to_what_they_did(distance: float) -> None:
    points, probabilities, _ = made_up()
    places = QueryLDA.fit(points, probabilities)
    asked = np.array([[1.0, 0, 0], [0.2, 0.3, 0.5], [0, 0, 0]])

    found = places.reweight(asked, np.full((3, 4), distance))

    np.testing.assert_allclose(found.sum(axis=1), [1, 1, 0])
    assert np.array_equal(found[[0, 2]], asked[[0, 2]])


def test_a_label_without_cells_is_weighed_like_the_best() -> None:
    points, probabilities, _ = made_up()
    with_other = np.concatenate([probabilities, np.full((len(points), 1), 1e-4)], axis=1)
    assert with_other[:, 3].sum() < LDA.least_cells

    found = QueryLDA.fit(points, with_other).reweight(with_other, points)

    assert (found[:, 3] >= with_other[:, 3] * (1 - 1e-9)).all()


def test_cells_that_all_lie_in_one_place_keep_their_probabilities() -> None:
    _, probabilities, _ = made_up()
    points = np.ones((len(probabilities), 4))

    np.testing.assert_allclose(QueryLDA.fit(points, probabilities).reweight(probabilities, points), probabilities)


def test_without_any_label_nothing_is_said() -> None:
    nothing = np.zeros((5, 3))

    assert not QueryLDA.fit(np.ones((5, 4)), nothing).reweight(nothing, np.ones((5, 4))).any()

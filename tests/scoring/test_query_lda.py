"""The discriminant analysis of a query equals plain loops, and decides the labels of uncertain cells."""

from __future__ import annotations

import numpy as np
import pytest

from spikgpt.scoring.query_lda import LDA, QueryLDA
from spikgpt.types import Floats


def made_up(cells: int = 400) -> tuple[Floats, Floats, np.ndarray]:
    """Return coordinates, label probabilities and true labels of made-up cells of three labels."""
    random = np.random.default_rng(0)
    truth = random.integers(3, size=cells)
    points = random.normal(size=(cells, 4)) * [1, 3, 1, 0.2] + 6 * np.eye(3, 4)[truth]
    return points, random.dirichlet(np.ones(3), cells) * 0.6 + 0.4 * np.eye(3)[truth], truth


def by_loops(points: Floats, probabilities: Floats) -> np.ndarray:
    """Return reweighted probabilities by plain loops over cells and labels."""
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


def test_reweighted_probabilities_equal_plain_loops() -> None:
    points, probabilities, _ = made_up()

    reweighted = QueryLDA.fit(points, probabilities).reweight(probabilities, points)

    np.testing.assert_allclose(reweighted, by_loops(points, probabilities), rtol=1e-9)


def test_uncertain_cells_get_the_label_with_the_nearest_mean() -> None:
    points, probabilities, truth = made_up()
    torn = np.arange(len(truth)) % 4 == 0
    probabilities[torn] = 1 / 3

    reweighted = QueryLDA.fit(points, probabilities).reweight(probabilities, points)

    assert (reweighted[torn].argmax(axis=1) == truth[torn]).mean() > 0.95


def test_sure_cells_keep_their_label() -> None:
    points, _, truth = made_up()
    sure = 0.97 * np.eye(3)[(truth + 1) % 3] + 0.01
    # The first ten cells have a high probability of a wrong label, the other cells of their true label.
    sure[10:] = 0.97 * np.eye(3)[truth[10:]] + 0.01

    reweighted = QueryLDA.fit(points, sure).reweight(sure, points)

    assert np.array_equal(reweighted[:10].argmax(axis=1), (truth[:10] + 1) % 3)


@pytest.mark.parametrize("distance", [1e3, 1e8])
def test_probabilities_of_far_cells_stay_finite_and_keep_their_sum(distance: float) -> None:
    points, probabilities, _ = made_up()
    lda = QueryLDA.fit(points, probabilities)
    given = np.array([[1.0, 0, 0], [0.2, 0.3, 0.5], [0, 0, 0]])

    reweighted = lda.reweight(given, np.full((3, 4), distance))

    np.testing.assert_allclose(reweighted.sum(axis=1), [1, 1, 0])
    assert np.array_equal(reweighted[[0, 2]], given[[0, 2]])


def test_probabilities_of_a_label_without_cells_do_not_fall() -> None:
    points, probabilities, _ = made_up()
    with_other = np.concatenate([probabilities, np.full((len(points), 1), 1e-4)], axis=1)
    assert with_other[:, 3].sum() < LDA.least_cells

    reweighted = QueryLDA.fit(points, with_other).reweight(with_other, points)

    assert (reweighted[:, 3] >= with_other[:, 3] * (1 - 1e-9)).all()


def test_cells_with_the_same_coordinates_keep_their_probabilities() -> None:
    _, probabilities, _ = made_up()
    points = np.ones((len(probabilities), 4))

    np.testing.assert_allclose(QueryLDA.fit(points, probabilities).reweight(probabilities, points), probabilities)


def test_cells_without_probabilities_get_none() -> None:
    nothing = np.zeros((5, 3))

    assert not QueryLDA.fit(np.ones((5, 4)), nothing).reweight(nothing, np.ones((5, 4))).any()

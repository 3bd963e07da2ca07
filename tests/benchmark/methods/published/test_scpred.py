from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from spikgpt_benchmark.methods.published.scpred import discriminating_components, kernel_width, train_svms


def simulated_points(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return 90 cells, shape (90, 12), and labels of three types; the first two components separate the types."""
    random = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c"], 30)
    points = random.normal(size=(90, 12))
    points[:30, 0] += 4
    points[30:60, 1] += 4
    return points, labels


def test_components_are_chosen_at_a_rate_of_false_discoveries() -> None:
    points, labels = simulated_points(3)
    points[:30, 5] += 0.6
    own = labels == "a"
    tested = [float(mannwhitneyu(points[own, at], points[~own, at]).pvalue) for at in range(12)]
    # Benjamini-Hochberg procedure: keep all ranks up to the largest k with p(k) < rate * k / m.
    order = np.argsort(tested)
    below = [rank for rank in range(12) if tested[order[rank]] < 0.05 * (rank + 1) / 12]
    expected = sorted(order[: below[-1] + 1].tolist())
    assert discriminating_components(points, own).tolist() == expected
    assert 0 in expected
    assert len(expected) < 12


def test_a_type_that_no_component_distinguishes_keeps_all_components() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4))
    assert discriminating_components(points, np.arange(60) % 2 == 0).tolist() == [0, 1, 2, 3]


def test_the_kernel_width_follows_the_distances_of_cells() -> None:
    points = np.array([[0.0], [1.0], [3.0]])
    squares = [1.0, 4.0, 9.0]
    low, high = np.quantile(squares, 0.1), np.quantile(squares, 0.9)
    assert kernel_width(points, 0) == pytest.approx((1 / low + 1 / high) / 2)


def test_each_machine_recognises_its_type_and_no_distant_cells() -> None:
    points, labels = simulated_points()
    machines = train_svms(points, labels, 0)
    queried = np.zeros((3, 12))
    queried[0, 0] = queried[1, 1] = 4
    probabilities = np.stack([machines[name](queried) for name in "abc"], axis=1)
    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2]
    assert (probabilities.max(axis=1) > 0.55).all()
    far = np.zeros((1, 12))
    far[0, 0] = far[0, 1] = -40
    assert all(machines[name](far)[0] < 0.55 for name in "ab")

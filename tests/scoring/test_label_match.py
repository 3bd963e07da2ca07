"""Contrast and marker genes separate known labels from missing types with the same label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from spikgpt.scoring.label_match import LabelMatch, marker_genes
from spikgpt.types import Integers, Profiles

Array = npt.NDArray[np.float64]


def made_up(seed: int = 0, genes: int = 60) -> tuple[Profiles, Array, Integers, Integers]:
    """Return profiles of four labels, and log expression, labels and batches of made-up cells."""
    random = np.random.default_rng(seed)
    means = random.gamma(1, 1, (4, genes))
    best, batches = np.repeat(np.arange(4), 50), np.arange(200) % 2
    logs = (
        means[best] + random.normal(0, 0.5, (200, genes)) + np.array([0, 1])[batches, None] * random.normal(size=genes)
    )
    return Profiles(means, np.full(genes, 0.5)), logs, best, batches


def matched(logs: Any, best: Integers, batches: Integers, profiles: Profiles) -> LabelMatch:
    """Return the label match; dense ``logs`` stand for embedding vectors, which have no marker genes."""
    return LabelMatch.fit(logs, best, batches, profiles, marker_genes(profiles) if sparse.issparse(logs) else [])


def contrasts_of(logs: Any, best: Integers, batches: Integers, profiles: Profiles) -> Array:
    return matched(logs, best, batches, profiles).contrast


def test_contrasts_equal_the_formula_in_plain_loops() -> None:
    profiles, logs, best, batches = made_up()
    contrasts = contrasts_of(sparse.csr_matrix(logs), best, batches, profiles)
    within = profiles.within + 0.1 * np.median(profiles.within)
    weights = profiles.means.var(axis=0) / within**2
    roots = np.sqrt(weights / weights.sum())
    for batch in range(2):
        means = np.stack([logs[(best == label) & (batches == batch)].mean(axis=0) for label in range(4)])
        for label in range(4):
            other_labels = [other for other in range(4) if other != label]
            effect = np.median((means - profiles.means)[other_labels], axis=0)
            a = (means[label] - effect - profiles.means.mean(axis=0)) * roots
            p = (profiles.means[label] - profiles.means.mean(axis=0)) * roots
            assert contrasts[batch, label] == pytest.approx(-np.log(1.02 - a @ p / np.sqrt((a @ a) * (p @ p) + 1e-12)))
    np.testing.assert_allclose(contrasts_of(logs, best, batches, profiles), contrasts)


def test_known_labels_keep_their_contrast_through_a_batch_effect_and_missing_types_do_not() -> None:
    profiles, logs, best, batches = made_up()
    contrasts = contrasts_of(sparse.csr_matrix(logs), best, batches, profiles)
    assert (contrasts > 2).all()
    foreign = logs.copy()
    foreign[best == 1] += np.random.default_rng(9).gamma(1, 1, logs.shape[1]) - profiles.means[1]
    lost = contrasts_of(sparse.csr_matrix(foreign), best, batches, profiles)
    assert (lost[:, 1] < 1).all()
    assert (np.delete(lost, 1, axis=1) > 1.5).all()


def test_labels_without_cells_have_no_contrast() -> None:
    profiles, logs, best, batches = made_up()
    some = best != 3
    contrasts = contrasts_of(sparse.csr_matrix(logs[some]), best[some], batches[some], profiles)
    assert (contrasts[:, 3] == 0).all()
    first = best == 0
    alone = contrasts_of(sparse.csr_matrix(logs[first]), best[first], batches[first], profiles)
    assert np.isfinite(alone).all()
    assert alone.shape == (2, 4)


def test_a_marker_deficit_lowers_the_match_of_a_label() -> None:
    # Each of the four labels has 15 markers; the last label is rare.
    profiles = Profiles(np.kron(np.eye(4), np.full(15, 2.0)), np.full(60, 0.5))
    best, batches = np.repeat([0, 1, 2, 3], [30, 20, 20, 9]), np.zeros(79, dtype=np.int64)
    # Cells of the four labels express their markers at 0.75, 1.3, 0.9 and 1.0 times the level in the reference.
    logs = profiles.means[best] * np.array([0.75, 1.3, 0.9, 1.0])[best, None]
    match = matched(sparse.csr_matrix(logs), best, batches, profiles)
    deficit = [[0.75 - (0.7 + 0.95) / 2, 0, 0, 0]]
    np.testing.assert_allclose(match.marker_deficit, deficit, atol=1e-12)
    np.testing.assert_allclose(match.score, match.contrast + 1.5 * np.array(deficit))
    # There is no deficit with nine markers, which are too few, or with embedding vectors, which have no markers.
    # The deficit of a single label is measured from the usual level, 0.7.
    few = np.concatenate([np.arange(label * 15, label * 15 + 9) for label in range(4)])
    panel = Profiles(profiles.means[:, few], profiles.within[few])
    assert not matched(sparse.csr_matrix(logs[:, few]), best, batches, panel).marker_deficit.any()
    assert not matched(logs, best, batches, profiles).marker_deficit.any()
    alone = matched(sparse.csr_matrix(logs[:30] * 0.8), best[:30], batches[:30], profiles)
    np.testing.assert_allclose(alone.marker_deficit, [[0.6 - 0.7, 0, 0, 0]])


def test_the_mean_contrast_is_that_of_cells() -> None:
    contrast, deficit = np.array([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]]), np.zeros((2, 3))
    match = LabelMatch(contrast, deficit, np.array([[10, 30, 9], [20, 9, 0]]))
    assert match.mean_contrast == pytest.approx((10 * 1 + 30 * 2 + 20 * 3) / 60)
    assert LabelMatch(contrast, deficit, np.full((2, 3), 9)).mean_contrast is None

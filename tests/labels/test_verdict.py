"""The verdict goes by how cells differ among themselves, and says so in words that are true."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from spikgpt.labels.thresholds import HeldOutScores
from spikgpt.labels.verdict import LIKE, OTHER, STUDY, Kind, Verdict, contrast, judge, shift
from spikgpt.types import Integers, Profiles

GENES = 40


def tissue(seed: int, labels: int = 4) -> Profiles:
    """Make up what labels express."""
    random = np.random.default_rng(seed)
    return Profiles(random.gamma(1, 1, (labels, GENES)), random.uniform(0.2, 0.8, GENES))


def cells_of(
    profiles: Profiles, best: Integers, seed: int = 0, offset: npt.NDArray[np.float64] | float = 0.0
) -> sparse.csr_matrix:
    """Make up cells of such labels, in a study that has its own offset of each gene."""
    noise = np.random.default_rng(seed).normal(0, 1, (len(best), GENES)) * profiles.within
    return sparse.csr_matrix(np.maximum(profiles.means[best] + noise + offset, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("sizes", "labels"),
    [
        ((100, 60, 30, 10), [0, 1, 2, 3]),
        ((100, 60, 30, 9), [0, 1, 2]),
        ((500, 60, 24, 10), [0, 1]),
        ((300, 200, 0, 40), [0, 1, 3]),
    ],
)
def test_contrast_is_that_of_a_loop_over_genes_and_labels(sizes: tuple[int, ...], labels: list[int]) -> None:
    random = np.random.default_rng(2)
    profiles = tissue(0)
    best = random.permutation(np.repeat(np.arange(4), sizes))
    logs = cells_of(profiles, best, offset=random.normal(1, 1, GENES))
    values = logs.toarray().astype(np.float64)
    # Of three labels or more, the one that agrees least is left out.
    choices = [[label for label in labels if label != out] for out in labels] if len(labels) > 2 else [labels]
    expected = max(looped(values, best, profiles, choice, sizes) for choice in choices)
    assert contrast(logs, best, profiles) == pytest.approx(expected)


def looped(
    values: npt.NDArray[np.float64], best: Integers, profiles: Profiles, labels: list[int], sizes: tuple[int, ...]
) -> float:
    """Return the contrast of some labels, gene by gene."""
    roots = [np.sqrt(sizes[label]) for label in labels]
    both = query_only = reference_only = 0.0
    for gene in range(GENES):
        within = profiles.within[gene] + 0.1 * np.median(profiles.within)
        weight = np.var(profiles.means[:, gene]) / within**2
        here = [np.mean([values[cell, gene] for cell in np.flatnonzero(best == label)]) for label in labels]
        there = [profiles.means[label, gene] for label in labels]
        here, there = (
            [value - sum(root * other for root, other in zip(roots, side, strict=True)) / sum(roots) for value in side]
            for side in (here, there)
        )
        for root, one, other in zip(roots, here, there, strict=True):
            both += weight * root * one * other
            query_only += weight * root * one**2
            reference_only += weight * root * other**2
    return float(both / np.sqrt(query_only * reference_only))


def test_a_type_that_hides_in_one_label_does_not_make_another_tissue() -> None:
    here, elsewhere = tissue(0, labels=6), tissue(100, labels=6)
    best = np.random.default_rng(0).integers(5, size=300)
    logs = cells_of(here, best)
    unseen = cells_of(elsewhere, np.zeros(300, dtype=np.int64), seed=1)
    both = sparse.csr_matrix(sparse.vstack([logs, unseen]))
    given = np.concatenate([best, np.full(300, 2)])
    assert verdict_on(both, given, here).usable


def test_contrast_does_not_depend_on_the_order_of_cells() -> None:
    best = np.random.default_rng(1).integers(4, size=20_000)
    logs = cells_of(tissue(0), best)
    order = np.random.default_rng(0).permutation(len(best))
    found = contrast(logs, best, tissue(0))
    assert contrast(sparse.csr_matrix(logs[order]), best[order], tissue(0)) == pytest.approx(found, abs=1e-12)


def verdict_on(logs: sparse.csr_matrix, best: Integers, reference: Profiles, shifted: float = 1.5) -> Verdict:
    """Return the verdict on cells that lie farther from a reference than its own, as those of any other study do."""
    return judge(contrast(logs, best, reference), None, 1.0, shifted, 0.5, 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_cells_of_the_same_tissue_keep_their_labels_and_those_of_another_do_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    here, elsewhere = tissue(seed), tissue(seed + 100)
    best = random.integers(4, size=300)
    offset = random.normal(2, 1, GENES)
    assert verdict_on(cells_of(here, best, seed), best, here, shifted=0.0).kind == LIKE
    # What a study does to all cells counts for nothing.
    assert verdict_on(cells_of(here, best, seed, offset + 3), best, here).kind == STUDY
    other = verdict_on(cells_of(elsewhere, best, seed), best, here)
    assert other.kind == OTHER
    assert not other.usable
    # Each label may be found in another tissue, but not so that the differences between them are the same.
    assert verdict_on(cells_of(here, (best + 1) % 4, seed), best, here).kind == OTHER


def test_cells_that_do_not_differ_are_not_of_the_tissue() -> None:
    best = np.arange(200) % 4
    same = sparse.csr_matrix(np.ones((200, GENES), dtype=np.float32))
    assert contrast(same, best, tissue(0)) == pytest.approx(0)
    nothing = Profiles(np.ones((4, GENES)), np.zeros(GENES))
    assert contrast(same, best, nothing) == 0


@pytest.mark.parametrize("size", [0, 1, 18, 200])
def test_one_label_cannot_be_compared(size: int) -> None:
    logs = cells_of(tissue(0), np.zeros(size, dtype=np.int64))
    assert contrast(logs, np.zeros(size, dtype=np.int64), tissue(0)) is None
    few = np.arange(size) % 2 if size < 20 else np.repeat([0, 1], [size - 9, 9])
    assert contrast(logs, few, tissue(0)) is None


def test_the_shift_is_the_median_over_labels_of_medians() -> None:
    held_out = HeldOutScores.of(np.linspace(0, 2, 101))
    assert held_out.median == pytest.approx(1)
    familiarity = np.repeat([0.5, -1.0, -3.0, -90.0], [200, 10, 10, 9])
    best = np.repeat([0, 2, 3, 1], [200, 10, 10, 9])
    assert shift(familiarity, best, held_out) == pytest.approx(1 - -1)
    # Too few of any label: all cells.
    assert shift(np.array([0.0, 4.0, 5.0]), np.array([0, 1, 2]), held_out) == pytest.approx(1 - 4)
    assert shift(np.array([-2.0]), np.array([3]), held_out) == pytest.approx(3)


def test_the_median_is_that_of_all_held_out_scores() -> None:
    values = np.random.default_rng(0).normal(size=5001)
    assert HeldOutScores.of(values).median == pytest.approx(np.median(values), abs=1e-3)


@pytest.mark.parametrize(
    ("correlation", "agreement", "shifted", "farther", "kind", "evidence"),
    [
        (0.9, 1.0, -0.1, 0.9, LIKE, "about as near to the labels as the reference's own; what .* correlates by 0.90"),
        (0.82, 1.0, 1.0, 0.1, LIKE, "about as near to the labels as the reference's own; what .* correlates by 0.82"),
        (0.9, 0.1, 9.0, 0.11, STUDY, "farther from the labels than the reference's own, but what .* by 0.90"),
        (0.64, 1.0, 1.3, 0.0, OTHER, "correlates by 0.64 .*; in the same tissue and species it is at least 0.65$"),
        (-0.5, None, 1.3, None, OTHER, "correlates by -0.50"),
        (0.3, 1.0, 1.2, 0.5, STUDY, "but what sets its cell types apart correlates by 0.30"),
        (0.9, None, 1.0, None, LIKE, "^too few of its cells share a label to tell another study; what"),
        (None, 1.0, 0.0, None, LIKE, "as near to the labels as the reference's own; no two of its cell types can be"),
        (None, None, 3.0, None, LIKE, "^too few of its cells share a label to tell another study; no two"),
        (None, None, 3.0, 0.05, LIKE, "as near to the labels as the reference's own; no two"),
        (None, 0.9, 3.0, 0.8, STUDY, "own, by no more than another study may do; no two of its cell types can be"),
        (None, None, 3.1, None, OTHER, "no two .*, and its cells lie 3.1 farther from .*; in the same .* at most 3.0$"),
        (None, 0.89, 1.3, 0.0, OTHER, "no two .*, and 11% of the labels depend on how it is scaled$"),
        (None, 0.89, 1.2, 0.0, LIKE, "as near to the labels as the reference's own; no two"),
    ],
)
def test_what_is_said_of_a_query(
    correlation: float | None, agreement: float | None, shifted: float, farther: float | None, kind: Kind, evidence: str
) -> None:
    verdict = judge(correlation, None, agreement, shifted, farther, 0.05)
    assert verdict.kind == kind
    assert verdict.usable == (kind != OTHER)
    assert re.search(evidence, verdict.evidence)


@pytest.mark.parametrize(
    ("kept", "correlation", "shifted", "kind"),
    [
        (1.0, 0.84, 1.3, STUDY),
        (0.99, 0.84, 1.3, OTHER),
        # Cells that lie near, or correlate well, are of another tissue only where hardly anything is kept.
        (0.6, 0.84, 1.2, STUDY),
        (0.6, 0.85, 1.3, STUDY),
        (0.59, 0.89, 0.0, OTHER),
        # A missing type took over a label.
        (0.1, 0.9, 1.3, STUDY),
        # So are those of which no two labels can be compared.
        (0.6, None, 3.0, STUDY),
        (0.59, None, 0.0, OTHER),
        (None, 0.65, 1.3, STUDY),
    ],
)
def test_labels_have_to_keep_what_sets_them_apart(
    kept: float | None, correlation: float | None, shifted: float, kind: Kind
) -> None:
    verdict = judge(correlation, kept, None, shifted, 0.5, 0.05)
    assert verdict.kind == kind
    if kind == OTHER:
        least = "1.0" if kept == 0.99 else "0.6"
        assert re.search(
            rf"\(mean contrast {kept:.2f}\); in the same tissue and species it is at least {least}$", verdict.evidence
        )

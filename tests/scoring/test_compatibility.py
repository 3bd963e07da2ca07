"""Compatibility depends on the differences between labels, and the evidence states the numbers."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from spikgpt.scoring.cell_agreement import CellAgreement
from spikgpt.scoring.compatibility import (
    LIKE,
    OTHER,
    STUDY,
    Comparison,
    Compatibility,
    Kind,
    check_compatibility,
    score_loss,
)
from spikgpt.scoring.label_match import LabelMatch, LabelMeans, marker_genes
from spikgpt.scoring.thresholds import ConformalScores
from spikgpt.types import Integers, Profiles

GENES = 120


def tissue(seed: int, labels: int = 4) -> Profiles:
    """Return made-up expression profiles of the labels, shape (labels, GENES)."""
    random = np.random.default_rng(seed)
    return Profiles(random.gamma(1, 1, (labels, GENES)), random.uniform(0.2, 0.8, GENES))


def compared(logs: sparse.csr_matrix, best: Integers, profiles: Profiles) -> Comparison:
    """Return the comparison of cells, whose labels are ``best``, with the reference's profiles."""
    return Comparison.fit(LabelMeans.fit(logs, best, len(profiles.means)), profiles, marker_genes(profiles))


def cells_of(
    profiles: Profiles, best: Integers, seed: int = 0, offset: npt.NDArray[np.float64] | float = 0.0
) -> sparse.csr_matrix:
    """Return made-up cells of the labels `best`; `offset` is the batch effect on each gene."""
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
def test_the_correlation_equals_a_loop_over_genes_and_labels(sizes: tuple[int, ...], labels: list[int]) -> None:
    random = np.random.default_rng(2)
    profiles = tissue(0)
    best = random.permutation(np.repeat(np.arange(4), sizes))
    logs = cells_of(profiles, best, offset=random.normal(1, 1, GENES))
    values = logs.toarray().astype(np.float64)
    # With three labels or more, the label that agrees least is left out.
    choices = [[label for label in labels if label != out] for out in labels] if len(labels) > 2 else [labels]
    expected = max(looped(values, best, profiles, choice, sizes) for choice in choices)
    comparison = compared(logs, best, profiles)
    assert comparison.correlation == pytest.approx(expected)
    assert comparison.labels == len(labels)


def looped(
    values: npt.NDArray[np.float64], best: Integers, profiles: Profiles, labels: list[int], sizes: tuple[int, ...]
) -> float:
    """Return the correlation between query and reference over the given labels, by a plain loop over genes."""
    roots = [np.sqrt(sizes[label]) for label in labels]
    both = query_only = reference_only = 0.0
    for gene in range(GENES):
        within = profiles.within[gene] + 0.1 * np.median(profiles.within)
        weight = np.var(profiles.means[:, gene]) / within**2
        means = (
            [np.mean([values[cell, gene] for cell in np.flatnonzero(best == label)]) for label in labels],
            [profiles.means[label, gene] for label in labels],
        )
        query, reference = (
            [value - sum(root * other for root, other in zip(roots, side, strict=True)) / sum(roots) for value in side]
            for side in means
        )
        for root, q, r in zip(roots, query, reference, strict=True):
            both += weight * root * q * r
            query_only += weight * root * q**2
            reference_only += weight * root * r**2
    return float(both / np.sqrt(query_only * reference_only))


def test_cells_of_an_unseen_type_in_one_label_leave_the_query_usable() -> None:
    reference, elsewhere = tissue(0, labels=6), tissue(100, labels=6)
    best = np.random.default_rng(0).integers(5, size=300)
    logs = cells_of(reference, best)
    unseen = cells_of(elsewhere, np.zeros(300, dtype=np.int64), seed=1)
    both = sparse.csr_matrix(sparse.vstack([logs, unseen]))
    given = np.concatenate([best, np.full(300, 2)])
    assert compatibility_of(both, given, reference).usable


def test_a_comparison_does_not_depend_on_the_order_of_cells() -> None:
    best = np.random.default_rng(1).integers(4, size=20_000)
    logs = cells_of(tissue(0), best)
    order = np.random.default_rng(0).permutation(len(best))
    comparison = compared(logs, best, tissue(0))
    again = compared(sparse.csr_matrix(logs[order]), best[order], tissue(0))
    assert dataclasses.astuple(again) == pytest.approx(dataclasses.astuple(comparison), abs=1e-12)


def compatibility_of(
    logs: sparse.csr_matrix, best: Integers, reference: Profiles, shifted: float = 1.5
) -> Compatibility:
    """Return the compatibility of cells with a reference, at a score loss of `shifted`."""
    batches = np.zeros_like(best)
    match = LabelMatch.fit(logs, best, batches, reference, marker_genes(reference))
    return check_compatibility(compared(logs, best, reference), match.mean_contrast, shifted, 0.5, 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_cells_of_the_same_tissue_are_compatible_and_cells_of_another_are_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference, elsewhere = tissue(seed), tissue(seed + 100)
    best = random.integers(4, size=300)
    offset = random.normal(0.3, 0.3, GENES)
    assert compatibility_of(cells_of(reference, best, seed), best, reference, shifted=0.0).kind == LIKE
    # A batch effect on all cells does not make the query incompatible.
    assert compatibility_of(cells_of(reference, best, seed, offset), best, reference).kind == STUDY
    other = compatibility_of(cells_of(elsewhere, best, seed), best, reference)
    assert other.kind == OTHER
    assert not other.usable
    # With permuted labels, the differences between labels are not those of the reference.
    assert compatibility_of(cells_of(reference, (best + 1) % 4, seed), best, reference).kind == OTHER


def test_identical_cells_have_no_correlation_with_the_reference() -> None:
    best = np.arange(200) % 4
    same = sparse.csr_matrix(np.ones((200, GENES), dtype=np.float32))
    assert compared(same, best, tissue(0)).correlation == pytest.approx(0)
    nothing = Profiles(np.ones((4, GENES)), np.zeros(GENES))
    # A reference with equal profiles has no marker genes.
    assert compared(same, best, nothing) == Comparison(4, 0, None, None)


@pytest.mark.parametrize("size", [0, 1, 18, 200])
def test_one_label_cannot_be_compared(size: int) -> None:
    logs = cells_of(tissue(0), np.zeros(size, dtype=np.int64))
    alone = compared(logs, np.zeros(size, dtype=np.int64), tissue(0))
    assert alone.correlation is None
    assert (alone.own_markers is None) == (size < 10)
    few = np.arange(size) % 2 if size < 20 else np.repeat([0, 1], [size - 9, 9])
    assert compared(logs, few, tissue(0)).correlation is None


def test_the_score_loss_is_the_median_over_labels() -> None:
    held_out = ConformalScores.fit(np.linspace(0, 2, 101))
    assert held_out.median == pytest.approx(1)
    id_scores = np.repeat([0.5, -1.0, -3.0, -90.0], [200, 10, 10, 9])
    best = np.repeat([0, 2, 3, 1], [200, 10, 10, 9])
    assert score_loss(id_scores, best, held_out) == pytest.approx(1 - -1)
    # Each label has too few cells, so the median is that of all cells.
    assert score_loss(np.array([0.0, 4.0, 5.0]), np.array([0, 1, 2]), held_out) == pytest.approx(1 - 4)
    assert score_loss(np.array([-2.0]), np.array([3]), held_out) == pytest.approx(3)


def test_the_median_is_that_of_all_held_out_scores() -> None:
    values = np.random.default_rng(0).normal(size=5001)
    assert ConformalScores.fit(values).median == pytest.approx(np.median(values), abs=1e-3)


def test_marker_levels_equal_a_loop_over_labels_and_genes() -> None:
    random, sizes = np.random.default_rng(3), (100, 60, 9, 30)
    profiles = tissue(0)
    best = random.permutation(np.repeat(np.arange(4), sizes))
    logs = cells_of(profiles, best, offset=0.3)
    values, within = logs.toarray().astype(np.float64), profiles.within + 0.1 * np.median(profiles.within)
    own, other, kept = list[float](), list[float](), (0, 1, 3)
    means = {label: values[best == label].mean(axis=0) for label in kept}
    ratios = list[float]()
    for gene in range(GENES):
        query = np.expm1(sum(sizes[label] * means[label][gene] for label in kept) / 190)
        reference = np.expm1(sum(sizes[label] * profiles.means[label][gene] for label in kept) / 190)
        ratios += [query / reference] if min(query, reference) > 0.1 else []
    assert np.median(ratios) > 1.1
    for label in kept:
        mean, expressed = np.log1p(np.expm1(means[label]) / np.median(ratios)), list[float]()
        for name in range(4):
            other_means = [profiles.means[index] for index in range(4) if index != name]
            leads = {
                gene: (profiles.means[name][gene] - max(row[gene] for row in other_means)) / within[gene]
                for gene in range(GENES)
            }
            markers = [gene for gene in sorted(leads, key=lambda gene: -leads[gene])[:20] if leads[gene] > 0]
            parts = []
            for gene in markers:
                base = np.mean([row[gene] for row in other_means])
                parts.append((mean[gene] - base) / max(profiles.means[name][gene] - base, 0.05))
            expressed.append(float(np.mean(np.clip(parts, -0.5, 1.5))))
        own.append(expressed.pop(label))
        other.append(max(expressed))
    comparison = compared(logs, best, profiles)
    assert comparison.own_markers == pytest.approx(np.average(own, weights=(100, 60, 30)))
    assert comparison.other_markers == pytest.approx(np.average(other, weights=(100, 60, 30)))


def test_a_panel_of_genes_is_compared_like_all_genes() -> None:
    profiles, best = tissue(0), np.arange(300) % 4
    values = cells_of(profiles, best)
    panel = values.copy()
    panel.data = np.log1p(np.expm1(values.data) * np.float32(5))
    whole, part = (compared(logs, best, profiles) for logs in (values, panel))
    assert part.own_markers == pytest.approx(whole.own_markers, abs=0.2)
    assert part.other_markers == pytest.approx(whole.other_markers, abs=0.1)
    # Fewer counts of all genes lower the marker level.
    less = values.copy()
    less.data = np.log1p(np.expm1(values.data) / np.float32(30))
    own = compared(less, best, profiles).own_markers
    assert own is not None
    assert own < 0.3


def test_markers_separate_cells_of_one_type_from_cells_of_another_tissue() -> None:
    reference, elsewhere, alone = tissue(0), tissue(100), np.full(100, 2)
    for shifted in (0.0, 9.0):
        assert compatibility_of(cells_of(reference, alone), alone, reference, shifted).usable
        strange = compatibility_of(cells_of(elsewhere, alone), alone, reference, shifted)
        assert re.search(r"markers of their labels at -?\d+%", strange.evidence)
        assert not strange.usable
        # The cells are of one type of the reference, but have the label of another type.
        assert not compatibility_of(cells_of(reference, alone - 1), alone, reference, shifted).usable


@pytest.mark.parametrize(
    ("correlation", "shifted", "farther", "kind", "facts"),
    [
        (0.9, -0.1, 0.9, LIKE, "r = 0.90"),
        (0.82, 1.0, 0.1, LIKE, "r = 0.82"),
        (0.9, 9.0, 0.11, STUDY, "r = 0.90"),
        (0.64, 1.3, 0.0, OTHER, "r = 0.64, expected at least 0.65"),
        (-0.5, 1.3, None, OTHER, "r = -0.50"),
        (0.3, 1.2, 0.5, STUDY, "r = 0.30"),
        (0.9, 1.0, None, LIKE, "r = 0.90); too few cells of one label"),
        (None, 0.0, None, LIKE, "too few cell types to compare"),
        (None, 3.0, None, LIKE, "too few cell types to compare; too few cells of one label"),
        (None, 3.0, 0.05, LIKE, "too few cell types to compare"),
        (None, 3.1, None, OTHER, "score loss 3.1, expected at most 3"),
        (None, 3.0, 0.8, STUDY, "too few cell types to compare"),
    ],
)
def test_the_evidence_states_the_numbers(
    correlation: float | None, shifted: float, farther: float | None, kind: Kind, facts: str
) -> None:
    result = check_compatibility(Comparison(3, correlation, None, None), None, shifted, farther, 0.05)
    assert result.kind == kind
    assert result.usable == (kind != OTHER)
    assert facts in result.evidence
    known = {} if correlation is None else {"correlation": correlation}
    assert result.values == known | {"score_loss": shifted}


@pytest.mark.parametrize(
    ("correlation", "kept", "own", "other", "kind", "facts"),
    [
        (0.9, 1.5, 0.8, 0.2, STUDY, "r = 0.90); cells express the markers of their labels at 80%"),
        (0.6, 0.5, 0.4, 0.1, STUDY, "r = 0.60"),
        (0.6, 0.5, 0.4, 0.14, OTHER, "r = 0.60): similarity 0.99, expected at least 1"),
        # The correlation counts as 0.65 if no two labels can be compared.
        (None, 0.5, 0.4, 0.18, STUDY, "markers of their labels at 40%"),
        (None, 0.5, 0.4, 0.2, OTHER, "similarity 0.99, expected at least 1"),
        # A query is refused if another label's markers exceed the own markers, whatever the contrast.
        (0.9, 3.0, 0.8, 0.85, STUDY, "r = 0.90"),
        (0.9, 3.0, 0.8, 0.86, OTHER, "at 80% of the usual level, and the markers of another label at 86%"),
        (0.9, 3.0, -0.2, -0.004, OTHER, "at 0% of the usual level, and the markers of another label at 0%"),
    ],
)
def test_few_labels_are_checked_by_similarity(
    correlation: float | None, kept: float, own: float, other: float, kind: Kind, facts: str
) -> None:
    labels = 1 if correlation is None else 2
    result = check_compatibility(Comparison(labels, correlation, own, other), kept, 9.0, 0.5, 0.05)
    assert result.kind == kind
    assert facts in result.evidence
    similarity = (0.65 if correlation is None else correlation) + 0.2 * kept + own - 0.8 * other
    assert result.values["similarity"] == pytest.approx(similarity)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (None, LIKE),
        (CellAgreement(0.0, 0.18), LIKE),
        (CellAgreement(0.45, 0.9), LIKE),
        (CellAgreement(0.449, 0.181), OTHER),
        (CellAgreement(-0.2, 0.9), OTHER),
    ],
)
def test_the_labels_have_to_explain_the_differences_between_cells(cells: CellAgreement | None, kind: Kind) -> None:
    result = check_compatibility(Comparison(1, None, 0.9, 0.1, cells), 1.0, 0.0, None, 0.05)
    assert result.kind == kind
    assert ("do not explain the differences between cells: r = " in result.evidence) == (kind == OTHER)
    if cells is None:
        assert not {"cell_correlation", "unexplained_variance"} & set(result.values)
    else:
        assert (result.values["cell_correlation"], result.values["unexplained_variance"]) == cells


@pytest.mark.parametrize(
    ("kept", "correlation", "shifted", "kind"),
    [
        (1.0, 0.84, 1.3, STUDY),
        (0.99, 0.84, 1.3, OTHER),
        # With a low score loss or a high correlation, a contrast of 0.6 is enough.
        (0.6, 0.84, 1.2, STUDY),
        (0.6, 0.85, 1.3, STUDY),
        (0.59, 0.89, 0.0, OTHER),
        # At a correlation of 0.9, a low contrast means that cells of a missing type have one of the labels.
        (0.1, 0.9, 1.3, STUDY),
        (None, 0.65, 1.3, STUDY),
    ],
)
def test_three_labels_need_a_mean_contrast(kept: float | None, correlation: float, shifted: float, kind: Kind) -> None:
    result = check_compatibility(Comparison(3, correlation, 0.8, 0.2), kept, shifted, 0.5, 0.05)
    assert result.kind == kind
    if kind == OTHER:
        least = 1 if kept == 0.99 else 0.6
        assert f"mean contrast {kept:.2f}, expected at least {least}" in result.evidence
    # If there is no similarity, two labels need a high mean contrast too.
    assert check_compatibility(Comparison(2, correlation, None, None), kept, shifted, 0.5, 0.05).kind == kind
    # If there is a similarity, the contrast of two labels does not decide: two labels cannot show a batch effect.
    assert check_compatibility(Comparison(2, correlation, 0.8, 0.2), kept, shifted, 0.5, 0.05).usable


def test_the_similarity_counts_own_markers_as_one_at_most() -> None:
    result = check_compatibility(Comparison(2, 0.9, 1.3, 1.2), 1.0, 9.0, 0.5, 0.05)
    assert result.usable
    assert result.values["similarity"] == pytest.approx(0.9 + 0.2 + 1 - 0.96)
    # Without a contrast there is no similarity, and the score loss decides.
    assert check_compatibility(Comparison(1, None, 0.8, 0.2), None, 3.0, 0.5, 0.05).usable
    assert not check_compatibility(Comparison(1, None, 0.8, 0.2), None, 3.1, 0.5, 0.05).usable


def test_marker_genes_of_one_label_alone_give_no_marker_level() -> None:
    """Check two labels, where label 1 expresses every gene more than label 0, so label 0 has no marker genes."""
    random = np.random.default_rng(0)
    means = np.concatenate([random.gamma(1, 1, (1, GENES)), np.full((1, GENES), 9.0)])
    profiles = Profiles(means, np.full(GENES, 0.5))
    best = np.repeat([0, 1], [90, 10])
    assert compared(cells_of(profiles, best), best, profiles).own_markers is None
    assert compared(cells_of(profiles, 1 - best), 1 - best, profiles).own_markers is None

"""The compiled correlations and marker excesses of cells equal those of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spikgpt import kernels
from spikgpt.scoring.ood_scorer import LabelGeometry, OODEvidence, OODScorer
from spikgpt.types import NetworkOutput, Profiles


def scorer_of(
    random: np.random.Generator, cells: int, genes: int, labels: int, batches: int, *, empty: bool
) -> OODScorer:
    dim = 5
    geometry = LabelGeometry(
        random.normal(size=(labels, dim)).astype(np.float32), np.eye(dim, dtype=np.float32) + np.float32(0.1)
    )
    logs = sparse.random(cells, genes, density=0 if empty else 0.3, format="csr", dtype=np.float32, rng=random)
    profiles = Profiles(random.random((labels, genes)) * (not empty), random.random(genes))
    effects = random.normal(scale=0.2, size=(batches, genes)) if batches else None
    vectors, probabilities = random.normal(size=(cells, dim)), random.dirichlet(np.ones(labels), cells)
    output = NetworkOutput(vectors, probabilities, random.normal(size=cells))
    return OODScorer(geometry, output, random.integers(0, max(batches, 1), cells), logs, profiles, effects)


def evidence(scorer: OODScorer, neighbours: np.ndarray, rows: np.ndarray) -> OODEvidence:
    assert scorer.logs is not None
    output = NetworkOutput(*(values[rows] for values in vars(scorer.sample).values()))
    return scorer.score(output, scorer.logs[rows], neighbours, scorer.batches[rows])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    genes=st.integers(1, 60),
    labels=st.integers(1, 9),
    batches=st.integers(0, 3),
    near=st.sampled_from([0, 14]),
    empty=st.booleans(),
)
def test_scores_equal_those_of_numpy(seed: int, genes: int, labels: int, batches: int, near: int, empty: bool) -> None:
    random = np.random.default_rng(seed)
    scorer = scorer_of(random, 40, genes, labels, batches, empty=empty)
    neighbours, rows = random.integers(0, 40, (25, near)), random.integers(0, 40, 25)
    expected = evidence(scorer, neighbours, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "LEAST_CELLS", 0)
        compiled = evidence(scorer, neighbours, rows)

    assert expected.marker_excess is not None
    assert compiled.marker_excess is not None
    np.testing.assert_allclose(compiled.marker_excess, expected.marker_excess, rtol=1e-10, atol=1e-12)
    # If the values of all genes are equal, the correlation is 0 / 0, and rounding decides its value.
    # ID scores are then not compared.
    if not empty and genes > 2:
        np.testing.assert_allclose(compiled.id_score, expected.id_score, rtol=1e-7, atol=1e-7)


def test_scores_do_not_depend_on_other_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LEAST_CELLS", 0)
    random = np.random.default_rng(0)
    scorer = scorer_of(random, 60, 50, 6, 2, empty=False)
    neighbours, rows = random.integers(0, 60, (60, 14)), np.arange(60)

    whole = evidence(scorer, neighbours, rows)
    part = evidence(scorer, neighbours[7:9], rows[7:9])

    assert whole.marker_excess is not None
    assert part.marker_excess is not None
    assert np.array_equal(whole.marker_excess[7:9], part.marker_excess)
    np.testing.assert_allclose(whole.id_score[7:9], part.id_score, rtol=1e-12)

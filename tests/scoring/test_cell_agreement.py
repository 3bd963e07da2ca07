"""Cell agreement follows its formula, and is zero if one label stands for many cell types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.reference.files import Reference
from spikgpt.scoring.cell_agreement import CellAgreement
from spikgpt.scoring.ood_scorer import OODScorer
from spikgpt.types import Bools, Floats, Integers, Rows
from tests.conftest import aligned
from tests.scoring.test_ood_scorer import scores

Fitted = tuple[OODScorer, Integers, Rows]


@pytest.fixture(scope="module")
def fitted(small: Reference, query: AnnData) -> Fitted:
    model = scores(small, aligned(small, query))
    assert model.scorer is not None
    return model.scorer, model.scores.probabilities.argmax(axis=1), model.smoother.neighbours


def by_cell(fitted: Fitted, chosen: Bools) -> tuple[float, float]:
    """Compute the correlation and the unexplained variance of the chosen cells from their definitions."""
    scorer, best, neighbours = fitted
    assert scorer.logs is not None
    assert scorer.profiles is not None
    logs, profiles = scorer.logs.toarray().astype(np.float64), scorer.profiles
    cells = (logs + logs[neighbours].sum(axis=1)) / (1 + neighbours.shape[1])
    between = profiles.means.var(axis=0)
    weights = between / profiles.spread**2

    def centred(values: Floats) -> Floats:
        parts = [values[chosen & (scorer.batches == batch)] for batch in np.unique(scorer.batches)]
        return np.concatenate([part - part.mean(axis=0) for part in parts])

    own, expected = centred(cells), centred(profiles.means[best])
    variance = (weights * own**2).sum()
    correlation = (weights * own * expected).sum() / np.sqrt(variance * (weights * expected**2).sum())
    reference = weights @ (between + profiles.within**2)
    return correlation, (1 - max(correlation, 0) ** 2) * variance / chosen.sum() / reference


@pytest.mark.parametrize("n_batches", [1, 2])
def test_the_label_that_agrees_least_is_left_out(fitted: Fitted, n_batches: int) -> None:
    scorer, best, neighbours = fitted
    scorer = replace(scorer, batches=np.arange(len(best)) % n_batches)

    def candidates() -> Iterator[tuple[float, float]]:
        yield by_cell((scorer, best, neighbours), np.ones(len(best), dtype=bool))
        counts = np.bincount(best)
        frequent = np.flatnonzero(counts >= max(10, 0.05 * len(best)))
        assert len(frequent) >= 3
        for label in frequent:
            yield by_cell((scorer, best, neighbours), best != label)

    agreement = CellAgreement.fit(scorer, best, neighbours)
    assert agreement == pytest.approx(max(candidates()))
    assert agreement is not None
    assert agreement.correlation > 0.8


def test_two_labels_are_both_compared(fitted: Fitted) -> None:
    scorer, best, neighbours = fitted
    two = (best > np.median(best)).astype(np.int64)
    agreement = CellAgreement.fit(scorer, two, neighbours)
    assert agreement == pytest.approx(by_cell((scorer, two, neighbours), np.ones(len(two), dtype=bool)))


def test_one_label_for_many_types_explains_nothing(fitted: Fitted) -> None:
    scorer, best, neighbours = fitted
    right, single = (CellAgreement.fit(scorer, labels, neighbours) for labels in (best, np.zeros_like(best)))
    assert right is not None
    assert single is not None
    assert single.correlation == 0
    assert single.unexplained > 2 * right.unexplained


def test_the_order_of_cells_changes_rounding_only(fitted: Fitted) -> None:
    scorer, best, neighbours = fitted
    assert scorer.logs is not None
    order = np.random.default_rng(0).permutation(len(best))
    moved = replace(scorer, logs=scorer.logs[order], batches=scorer.batches[order])
    agreement = CellAgreement.fit(moved, best[order], np.argsort(order)[neighbours[order]])
    assert agreement == pytest.approx(CellAgreement.fit(scorer, best, neighbours))


def test_neighbours_and_expression_are_needed(fitted: Fitted) -> None:
    scorer, best, neighbours = fitted
    assert CellAgreement.fit(scorer, best, neighbours[:, :0]) is None
    assert CellAgreement.fit(replace(scorer, logs=None, profiles=None), best, neighbours) is None

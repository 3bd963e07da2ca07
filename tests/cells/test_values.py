"""Telling what values are: counts, linear values, and logarithms to any base."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells.expression import find_expression
from tests.cells.conftest import log_of, with_x


def test_counts_stored_as_inexact_floats(real: AnnData) -> None:
    cells = with_x(real, real.X.astype(np.float64) * (1 + 1e-9))
    assert find_expression(cells).kind == "counts"


@pytest.mark.parametrize("target", [1.0, 1e4, 1e6])
def test_linear_values(real: AnnData, target: float) -> None:
    counts = real.X.toarray()
    cells = with_x(real, counts * target / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    assert find_expression(cells).kind == "linear"


@pytest.mark.parametrize("genes_step", [1, 4])
@pytest.mark.parametrize("target", [None, 1e4])
@pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
def test_log_base(real: AnnData, base: float, target: float | None, genes_step: int) -> None:
    cells = with_x(real, log_of(real, base, target))[:, ::genes_step]
    expression = find_expression(cells)
    assert expression.kind == "log"
    assert expression.log_base == base
    assert (expression.target_sum is not None) == (target is not None and genes_step == 1)
    assert any("logarithms to base" in note for note in expression.notes) == (base != np.e)
    assert any("no common total" in note for note in expression.notes) == (target is not None and genes_step == 4)


@pytest.mark.parametrize("base", [np.e, 2.0])
def test_log_base_of_corrected_counts(real: AnnData, base: float) -> None:
    # Ambient correction leaves no multiples, so the constant sum has to tell.
    rng = np.random.default_rng(0)
    counts = real.X.toarray() * rng.uniform(0.5, 1, real.shape)
    counts *= 1e4 / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    expression = find_expression(with_x(real, (np.log1p(counts) / np.log(base)).astype(np.float32)))
    assert expression.log_base == base
    assert expression.target_sum == pytest.approx(1e4, rel=1e-5)


def test_log_values_above_ln_of_a_million_are_base_2(real: AnnData) -> None:
    logs = log_of(real).toarray()
    logs[0, 0] = 13.9
    assert find_expression(with_x(real, logs)).log_base == 2.0
    logs[0, 0] = 13.8
    assert find_expression(with_x(real, logs)).log_base == np.e


def test_one_cell_is_enough(real: AnnData) -> None:
    richest = int(np.asarray(real.X.sum(axis=1)).argmax())
    expression = find_expression(with_x(real, log_of(real, 2.0))[[richest]])
    assert (expression.kind, expression.log_base) == ("log", 2.0)


def test_binary_counts_are_noted(real: AnnData) -> None:
    assert find_expression(with_x(real, (real.X > 0).astype(np.float32))).notes == (
        "The counts are all 0 or 1; were they binarised?",
    )

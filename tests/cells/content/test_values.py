"""Recognition of counts, linear values, and logarithms to any base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.values import content_of
from spikgpt.cells.expression import find_expression
from spikgpt.cells.matrices import sampled_rows
from spikgpt.errors import DataError
from tests.cells.conftest import log_of, with_x


def test_counts_stored_as_inexact_floats_are_recognised(real: AnnData) -> None:
    cells = with_x(real, real.X.astype(np.float64) * (1 + 1e-9))
    assert find_expression(cells).kind == "counts"


@pytest.mark.parametrize("target", [1.0, 1e4, 1e6])
def test_linear_values_are_recognised(real: AnnData, target: float) -> None:
    counts = real.X.toarray()
    cells = with_x(real, counts * target / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    assert find_expression(cells).kind == "linear"


@pytest.mark.parametrize("genes_step", [1, 4])
@pytest.mark.parametrize("target", [None, 1e4])
@pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
def test_the_log_base_is_recognised(real: AnnData, base: float, target: float | None, genes_step: int) -> None:
    cells = with_x(real, log_of(real, base, target))[:, ::genes_step]
    expression = find_expression(cells)
    assert expression.kind == "log"
    assert expression.log_base == base
    assert (expression.target_sum is not None) == (target is not None and genes_step == 1)
    assert any("logarithms to base" in note for note in expression.notes) == (base != np.e)
    assert any("one total per cell" in note for note in expression.notes) == (target is not None and genes_step == 4)


@pytest.mark.parametrize("base", [np.e, 2.0])
def test_the_log_base_of_corrected_counts_is_recognised(real: AnnData, base: float) -> None:
    # After a correction for ambient RNA, counts are not whole. The log base then follows from the equal cell totals.
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


def test_one_cell_is_enough_for_the_log_base(real: AnnData) -> None:
    richest = int(np.asarray(real.X.sum(axis=1)).argmax())
    expression = find_expression(with_x(real, log_of(real, 2.0))[[richest]])
    assert (expression.kind, expression.log_base) == ("log", 2.0)


def test_few_binary_values_are_noted_and_many_are_refused(real: AnnData) -> None:
    binary = with_x(real, (real.X > 0).astype(np.float32))
    assert find_expression(binary[:3]).notes == ("The counts are all 0 or 1; were they binarised?",)
    with pytest.raises(DataError, match=r"X holds \d+ values that are all 1, as binarised data does"):
        find_expression(binary)


def test_an_unfiltered_matrix_is_noted(real: AnnData) -> None:
    empty = np.random.default_rng(0).multinomial(30, np.full(6000, 1 / 6000), size=45)
    filled = np.random.default_rng(1).multinomial(2000, np.full(6000, 1 / 6000), size=5)
    genes = [f"gene {number}" for number in range(6000)]

    def notes(cells: list[np.ndarray], genes: list[str]) -> tuple[str, ...]:
        matrix = sparse.csr_matrix(np.concatenate(cells)[:, : len(genes)].astype(np.float32))
        return find_expression(AnnData(matrix, var=pd.DataFrame(index=genes))).notes

    (note,) = notes([empty, filled], genes)
    assert note.startswith("About 90% of the cells have fewer than 100 counts, as empty droplets do. Use the filtered")
    assert notes([filled, empty[:4]], genes) == ()
    # Cells of a targeted gene panel have few counts, so there is no note on empty droplets.
    assert notes([empty, filled], genes[:4000]) == ()


# --- mixtures --------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[AnnData], Any]] = {
    "counts": lambda cells: cells.X,
    "logs": log_of,
    "logs of a million": lambda cells: log_of(cells, target=1e6),
    "log2": lambda cells: log_of(cells, 2.0),
    "CPM": lambda cells: cells.X.multiply(1e6 / cells.X.sum(axis=1)).tocsr(),
    "roots": lambda cells: cells.X.sqrt(),
    "twice": lambda cells: log_of(cells).log1p(),
    "few counts": lambda cells: cells.X.minimum(3),
}


def mixture(cells: AnnData, first: str, second: str, share: float, order: str) -> AnnData:
    """Return cells with values of kind ``first``, except a share with kind ``second``, at the start or shuffled."""
    chosen = np.arange(cells.n_obs) < share * cells.n_obs
    if order == "shuffled":
        chosen = np.random.default_rng(0).permutation(chosen)
    first_part = sparse.diags_array((~chosen).astype(np.float32)) @ PARTS[first](cells)
    return with_x(
        cells, sparse.csr_matrix(first_part + sparse.diags_array(chosen.astype(np.float32)) @ PARTS[second](cells))
    )


@pytest.mark.parametrize("order", ["blocks", "shuffled"])
@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize(
    ("first", "second"),
    [("counts", "logs"), ("logs", "counts"), ("CPM", "logs"), ("counts", "log2"), ("counts", "CPM")]
    + [("logs", "logs of a million"), ("logs", "few counts")],
)
def test_two_kinds_of_values_are_read_cell_by_cell(
    deep: AnnData, first: str, second: str, share: float, order: str
) -> None:
    expression = find_expression(mixture(deep, first, second, share, order))
    linear = expression.linear(0, deep.n_obs).toarray()
    counts = deep.X.toarray()
    if second == "few counts":
        some = (linear <= 3).all(axis=1) & (np.rint(linear) == linear).all(axis=1)
        assert some.sum() == share * deep.n_obs
        counts[some] = np.minimum(counts[some], 3)
    expected = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(linear / linear.sum(axis=1, keepdims=True), expected, rtol=1e-3, atol=1e-7)
    if second != "logs of a million":
        assert "% of the cells hold" in expression.notes[0]


@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize(
    ("first", "second"), [("logs", "log2"), ("counts", "roots"), ("logs", "twice"), ("counts", "twice")]
)
def test_ambiguous_mixtures_are_refused(deep: AnnData, first: str, second: str, share: float) -> None:
    with pytest.raises(DataError, match=r"X (holds|is of two kinds).*of the cells.*annotate each part alone\.$"):
        find_expression(mixture(deep, first, second, share, "shuffled"))


def test_logarithms_among_counts_are_refused_in_cells_outside_the_sample(deep: AnnData) -> None:
    rows = sparse.vstack([deep.X[:25], log_of(deep)[25:26], *[deep.X] * 20], format="csr")
    assert 25 not in sampled_rows(rows.shape[0])
    expression = find_expression(AnnData(rows, var=deep.var))
    assert expression.kind == "counts"
    with pytest.raises(DataError, match=r"X holds counts, but other numbers in cell '25' \(row 25\).*part alone\.$"):
        expression.linear(0, 100)


def test_counts_among_logarithms_are_read_in_cells_outside_the_sample(deep: AnnData) -> None:
    few = deep.X[25:26].minimum(20)
    rows = sparse.vstack([log_of(deep)[:25], few, *[log_of(deep)] * 20], format="csr")
    assert 25 not in sampled_rows(rows.shape[0])
    expression = find_expression(AnnData(rows, var=deep.var))
    assert expression.kind == "log"
    np.testing.assert_array_equal(expression.linear(24, 27)[1].toarray(), few[0].toarray())


def test_cells_of_one_gene_each_give_no_warning() -> None:
    rng = np.random.default_rng(0)
    values = (rng.uniform(0.5, 3, 60).astype(np.float32), (np.arange(60), rng.integers(0, 50, 60)))
    assert content_of(sparse.csr_matrix(values, shape=(60, 50))).kind == "log"

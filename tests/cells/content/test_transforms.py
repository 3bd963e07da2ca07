"""Transformations of counts are recognised and undone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.transforms import frequent_values, multiples_distance
from spikgpt.cells.expression import find_expression
from tests.cells.conftest import log_of, with_x

Matrix = npt.NDArray[np.float64]


UNDONE: dict[str, tuple[Callable[[Matrix], Matrix], str]] = {
    "log1p twice": (lambda counts: np.log1p(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)), "ln(1 + ln"),
    "square roots": (np.sqrt, "square roots"),
    "square roots of normalised counts": (lambda counts: np.sqrt(counts / counts.sum(axis=1, keepdims=True)), "square"),
    "arcsinh": (np.arcsinh, "arcsinh"),
    "arcsinh with a cofactor": (lambda counts: np.arcsinh(counts / 5), "arcsinh"),
    "logarithms without 1": (
        lambda counts: np.log(1e6 * counts / counts.sum(axis=1, keepdims=True), where=counts > 0, out=counts * 0),
        "",
    ),
}


@pytest.mark.parametrize("name", UNDONE)
def test_transformations_are_undone(deep: AnnData, name: str) -> None:
    transform, word = UNDONE[name]
    counts = deep.X.toarray().astype(np.float64)
    expression = find_expression(with_x(deep, sparse.csr_matrix(transform(counts).astype(np.float32))))
    linear = expression.linear(0, deep.n_obs).toarray()
    expected = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(linear / linear.sum(axis=1, keepdims=True), expected, rtol=0.03, atol=1e-5)
    assert word in " ".join(expression.notes)


def test_distances_and_frequent_values_are_per_cell() -> None:
    rows = sparse.csr_matrix([[0.5, 1, 1.5, 0.5], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1.8, 2.7, 3]])
    np.testing.assert_allclose(multiples_distance(rows), [0, np.nan, np.nan, (0.2 + 0.3 + 0) / 3])
    tied = sparse.csr_matrix([[0.7] * 5 + [1.1] * 4 + [3.0]] * 3)
    np.testing.assert_allclose(frequent_values(tied), [[0.7, 1.1, np.nan]] * 3)
    tied = sparse.csr_matrix([[0.7] * 5 + [1.1] * 4 + [3.0] * 3] * 3)
    np.testing.assert_allclose(frequent_values(tied), [[0.7, 1.1, 3.0]] * 3)
    assert frequent_values(rows).shape == (0, 3)


def test_logarithms_are_not_taken_for_another_transformation(deep: AnnData) -> None:
    for base in (np.e, 2.0, 10.0):
        for target in (None, 1e4, 1e6):
            expression = find_expression(with_x(deep, log_of(deep, base, target)))
            assert (expression.kind, expression.log_base) == ("log", base)
            assert expression.content.inverse is None

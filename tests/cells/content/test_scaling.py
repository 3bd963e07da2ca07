"""Values after an irreversible transformation are refused, and usual values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import find_expression
from spikgpt.errors import DataError
from tests.cells.conftest import log_of, with_x

Matrix = npt.NDArray[Any]


def deviations(logs: Matrix) -> Matrix:
    return np.asarray(np.maximum(logs.std(axis=0, ddof=1), 1e-9))


def shifted(logs: Matrix) -> Matrix:
    standard = (logs - logs.mean(axis=0)) / deviations(logs)
    return np.asarray(standard - standard.min() + 0.1)


def smoothed(logs: Matrix) -> Matrix:
    weights = np.random.default_rng(0).uniform(0.1, 1, (len(logs), len(logs)))
    return np.asarray(weights @ logs / weights.sum(axis=1, keepdims=True))


IRREVERSIBLE: dict[str, tuple[Callable[[Matrix, Matrix], Matrix], str]] = {
    "z scores": (lambda _, logs: (logs - logs.mean(axis=0)) / deviations(logs), "negative values"),
    "residuals": (lambda counts, _: counts - counts.mean(axis=0), "negative values"),
    "scaled": (lambda _, logs: logs / deviations(logs), "one standard deviation"),
    "scaled and clipped": (lambda _, logs: np.minimum(logs / deviations(logs), 10), "one standard deviation"),
    "0 to 1": (lambda _, logs: logs / np.maximum(logs.max(axis=0), 1e-9), "one maximum"),
    "tf-idf": (lambda counts, _: counts * np.log1p(60 / np.maximum((counts > 0).sum(axis=0), 1)) ** 2, "."),
    "shifted": (lambda _, logs: shifted(logs), "100% values that are not 0"),
    "pseudocount": (lambda counts, _: counts + 1, "100% values that are not 0"),
    "Freeman-Tukey": (lambda counts, _: np.sqrt(counts) + np.sqrt(counts + 1), "100% values that are not 0"),
    "Anscombe": (lambda counts, _: 2 * np.sqrt(counts + 0.375), "100% values that are not 0"),
    "imputed": (lambda _, logs: smoothed(logs), "as imputed or denoised data does"),
    "rounded": (lambda _, logs: np.round(logs), "as rounded logarithms do"),
    "three logarithms": (lambda _, logs: np.log1p(np.log1p(logs)), "repeat within a cell"),
    "acosh": (lambda counts, _: 2 * np.arcsinh(np.sqrt(counts / 10)), "repeat within a cell"),
    "binary": (lambda counts, _: (counts > 0) * 1.0, "as binarised data does"),
    "unit length": (lambda _, logs: logs / np.maximum(np.linalg.norm(logs, axis=1, keepdims=True), 1e-9), "repeat"),
    "ranks": (lambda counts, _: counts.argsort(axis=1, kind="stable").argsort(axis=1) + 1.0, "as ranks are"),
}


@pytest.mark.parametrize("step", IRREVERSIBLE)
def test_values_after_an_irreversible_step_are_refused(deep: AnnData, step: str) -> None:
    transform, message = IRREVERSIBLE[step]
    values = transform(deep.X.toarray().astype(np.float64), log_of(deep).toarray().astype(np.float64))
    with pytest.raises(DataError, match=rf"^No expression values can be read: X holds .*{message}"):
        find_expression(with_x(deep, sparse.csr_matrix(values.astype(np.float32))))


def full_length(counts: Matrix, _: Any) -> Matrix:
    per_length = counts / np.random.default_rng(1).lognormal(1, 0.7, counts.shape[1])
    return np.asarray(np.log2(1 + 1e6 * per_length / np.maximum(per_length.sum(axis=1, keepdims=True), 1)))


REAL: dict[str, tuple[Callable[[Matrix, Matrix], Matrix], str]] = {
    "counts": (lambda counts, _: counts, "counts"),
    "few counts": (lambda counts, _: np.random.default_rng(0).binomial(counts.astype(int), 0.1) * 1.0, "counts"),
    "logarithms": (lambda _, logs: logs, "log"),
    "half the genes": (lambda _, logs: logs * (np.arange(logs.shape[1]) % 2), "log"),
    "half precision": (lambda _, logs: logs.astype(np.float16), "log"),
    "two decimals": (lambda _, logs: np.round(logs, 2), "log"),
    "log2 of TPM": (full_length, "log"),
    "corrected": (lambda counts, _: counts * np.random.default_rng(0).uniform(0.5, 1, counts.shape), "linear"),
    "log of corrected": (lambda _, logs: logs * np.random.default_rng(0).uniform(0.7, 1, logs.shape), "log"),
}


@pytest.mark.parametrize("real", REAL)
def test_usual_values_are_read(deep: AnnData, real: str) -> None:
    make, kind = REAL[real]
    values = make(deep.X.toarray().astype(np.float64), log_of(deep).toarray().astype(np.float64))
    assert find_expression(with_x(deep, sparse.csr_matrix(values.astype(np.float32)))).kind == kind

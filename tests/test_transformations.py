"""Labels of transformed cells are those of their counts, or the cells are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.errors import DataError
from tests.cells.conftest import with_x

Matrix = npt.NDArray[Any]
Labels = Callable[[Matrix], pd.DataFrame]
RNG = np.random.default_rng


def shares(counts: Matrix) -> Matrix:
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def logs(counts: Matrix, target: float = 1e4) -> Matrix:
    return np.asarray(np.log1p(target * shares(counts)))


def standard(counts: Matrix) -> Matrix:
    values = logs(counts)
    return np.asarray((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9))


def tpm(counts: Matrix) -> Matrix:
    return np.asarray(1e6 * shares(counts / RNG(0).lognormal(1, 0.5, counts.shape[1])))


def by_size_factors(counts: Matrix) -> Matrix:
    factors = counts.sum(axis=1) / counts.sum(axis=1).mean() * RNG(0).lognormal(0, 0.3, len(counts))
    return np.asarray(np.log2(1 + counts / factors[:, None]))


def imputed(counts: Matrix) -> Matrix:
    weights = RNG(0).uniform(0.1, 1, (len(counts), len(counts)))
    return np.asarray(weights @ logs(counts) / weights.sum(axis=1, keepdims=True))


def tf_idf(counts: Matrix) -> Matrix:
    return np.asarray(shares(counts) * np.log1p(len(counts) / np.maximum((counts > 0).sum(axis=0), 1)))


READ: dict[str, Callable[[Matrix], Matrix]] = {
    "arcsinh": np.arcsinh,
    "square roots": np.sqrt,
    "CPM": lambda counts: 1e6 * shares(counts),
    "log2": lambda counts: logs(counts) / np.log(2),
    "log10": lambda counts: logs(counts) / np.log(10),
    "log1p twice": lambda counts: np.log1p(logs(counts)),
    "log1p of raw counts": np.log1p,
    "centred log ratio": lambda counts: np.log1p(counts / np.exp(np.log1p(counts).mean(axis=1, keepdims=True))),
    "size factors": by_size_factors,
}
# Other information: more cells may be Unknown, as those of another platform are.
NEARLY: dict[str, Callable[[Matrix], Matrix]] = {
    "TPM": tpm,
    "log of TPM": lambda counts: np.log1p(tpm(counts)),
    "fewer counts": lambda counts: RNG(0).binomial(counts.astype(int), 0.5),
}
REFUSED: dict[str, Callable[[Matrix], Matrix]] = {
    "z scores": standard,
    "clipped": lambda counts: np.clip(standard(counts), -10, 10),
    "clipped at 0": lambda counts: np.clip(standard(counts), 0, 10),
    "centred": lambda counts: logs(counts) - logs(counts).mean(axis=0),
    "0 to 1": lambda counts: logs(counts) / np.maximum(logs(counts).max(axis=0), 1e-9),
    "rounded logs": lambda counts: np.round(logs(counts)),
    "binary": lambda counts: counts > 0,
    "acosh": lambda counts: 2 * np.arcsinh(np.sqrt(counts / 10)),
    "TF-IDF": tf_idf,
    "imputed": imputed,
}


@pytest.fixture(scope="module")
def frequent(few: AnnData) -> AnnData:
    """Return 120 cells and the genes that a tenth of them has."""
    return few[:, np.asarray((few.X > 0).mean(axis=0)).ravel() >= 0.1].copy()


@pytest.fixture(scope="module")
def labels_of(frequent: AnnData, shipped: SpikGPT) -> Labels:
    """Return a function that labels these cells with other values."""

    def labels(values: Matrix) -> pd.DataFrame:
        cells = with_x(frequent, sparse.csr_matrix(np.asarray(values, dtype=np.float32)))
        shipped.annotate(cells)
        return pd.DataFrame(cells.obs.filter(like="spikgpt").astype(str))

    return labels


@pytest.fixture(scope="module")
def counts(frequent: AnnData) -> Matrix:
    return np.asarray(frequent.X.toarray(), dtype=np.float64)


@pytest.fixture(scope="module")
def expected(labels_of: Labels, counts: Matrix) -> pd.DataFrame:
    return labels_of(counts)


def agreement(first: pd.DataFrame, second: pd.DataFrame, column: str = "label") -> float:
    """Return the share of cells that get the same label."""
    return float((first[f"spikgpt_{column}"] == second[f"spikgpt_{column}"]).mean())


@pytest.mark.parametrize("name", READ)
def test_labels_are_those_of_the_counts(name: str, labels_of: Labels, counts: Matrix, expected: pd.DataFrame) -> None:
    assert agreement(labels_of(READ[name](counts)), expected) >= 0.99


@pytest.mark.parametrize("name", NEARLY)
def test_best_labels_of_other_measurements_are_nearly_those(
    name: str, labels_of: Labels, counts: Matrix, expected: pd.DataFrame
) -> None:
    assert agreement(labels_of(NEARLY[name](counts)), expected, "best_label") >= 0.95


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_undone_gets_no_labels(name: str, labels_of: Labels, counts: Matrix) -> None:
    with pytest.raises(DataError, match="^No expression values can be read: X holds"):
        labels_of(REFUSED[name](counts))


@pytest.mark.parametrize(
    ("part", "share", "order"),
    [("counts", 0.5, "blocks"), ("counts", 0.5, "shuffled"), ("counts", 0.05, "shuffled"), ("CPM", 0.5, "shuffled")],
)
def test_labels_of_mixed_cells_are_those_of_the_counts(
    part: str, share: float, order: str, labels_of: Labels, counts: Matrix, expected: pd.DataFrame
) -> None:
    chosen = np.arange(len(counts)) < share * len(counts)
    chosen = RNG(0).permutation(chosen) if order == "shuffled" else chosen
    other = counts if part == "counts" else 1e6 * shares(counts)
    assert agreement(labels_of(np.where(chosen[:, None], other, logs(counts))), expected) >= 0.99

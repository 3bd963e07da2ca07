"""Transformed cells get the labels of their counts, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spikgpt import Annotation, SpikGPT
from spikgpt.engines.opening import open_engine
from spikgpt.errors import DataError
from spikgpt.options import EngineOptions, options_of
from spikgpt.reference.files import Reference, build_reference, read_reference
from spikgpt.reference.json_files import converted
from spikgpt.scoring.label_map import LabelMap, LabelRow
from tests.cells.conftest import with_x
from tests.conftest import labelled

Matrix = npt.NDArray[Any]
Labels = Callable[[Matrix], pd.DataFrame]
RNG = np.random.default_rng
# Prefixes of the tensors of a reference with one row per label.
PER_LABEL = (
    "classifier.head.",
    "embedder.label_",
    "embedder.more_label_",
    "embedder.more_centroids",
    "familiarity.centroids",
)


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


INVERTIBLE: dict[str, Callable[[Matrix], Matrix]] = {
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
# Transformations that lose information, so more cells may be Unknown, as with another platform.
LOSSY: dict[str, Callable[[Matrix], Matrix]] = {
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
    """Return 120 cells with the genes that at least a tenth of the cells express."""
    return few[:, np.asarray((few.X > 0).mean(axis=0)).ravel() >= 0.1].copy()


@pytest.fixture(scope="module")
def labels_of(frequent: AnnData, shipped: SpikGPT) -> Labels:
    """Return a function that annotates the cells of ``frequent`` with other values in X."""

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
    """Return the share of cells with equal labels in two tables."""
    return float((first[f"spikgpt_{column}"] == second[f"spikgpt_{column}"]).mean())


@pytest.mark.parametrize("name", INVERTIBLE)
def test_invertible_transformations_keep_the_labels_of_counts(
    name: str, labels_of: Labels, counts: Matrix, expected: pd.DataFrame
) -> None:
    assert agreement(labels_of(INVERTIBLE[name](counts)), expected) >= 0.99


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_transformations_keep_most_best_labels(
    name: str, labels_of: Labels, counts: Matrix, expected: pd.DataFrame
) -> None:
    assert agreement(labels_of(LOSSY[name](counts)), expected, "best_label") >= 0.95


@pytest.mark.parametrize("name", REFUSED)
def test_other_transformations_are_refused(name: str, labels_of: Labels, counts: Matrix) -> None:
    with pytest.raises(DataError, match="^No expression values can be read: X holds"):
        labels_of(REFUSED[name](counts))


@pytest.mark.parametrize(
    ("part", "share", "order"),
    [("counts", 0.5, "blocks"), ("counts", 0.5, "shuffled"), ("counts", 0.05, "shuffled"), ("CPM", 0.5, "shuffled")],
)
def test_cells_with_different_transformations_get_the_labels_of_counts(
    part: str, share: float, order: str, labels_of: Labels, counts: Matrix, expected: pd.DataFrame
) -> None:
    chosen = np.arange(len(counts)) < share * len(counts)
    chosen = RNG(0).permutation(chosen) if order == "shuffled" else chosen
    other = counts if part == "counts" else 1e6 * shares(counts)
    assert agreement(labels_of(np.where(chosen[:, None], other, logs(counts))), expected) >= 0.99


# Few examples, because each example annotates again; the examples are the same in each run.
FEW_EXAMPLES = settings(max_examples=6, deadline=None, derandomize=True, database=None)


def with_labels_in_order(reference: Reference, order: list[int]) -> Reference:
    """Return a reference with its labels in another order."""
    names = reference.labels.names
    rows = [row | {"index": index} for index, row in enumerate(reference.labels.to_list()[old] for old in order)]
    tensors = {name: array[order] if name.startswith(PER_LABEL) else array for name, array in reference.tensors.items()}
    counted = reference.metrics["cells_per_label"]
    return build_reference(
        replace(
            reference,
            labels=LabelMap.from_rows(converted(rows, "labels", list[LabelRow])),
            metrics=reference.metrics | {"cells_per_label": {names[old]: counted[names[old]] for old in order}},
            familiarity=None,  # computed from the tensors
            tensors=tensors,
            files={},
        )
    )


@pytest.fixture(scope="module")
def expected_of_small(small: Reference, few: AnnData) -> Annotation:
    return labelled(small, few)


@pytest.fixture(scope="module")
def half(few: AnnData) -> AnnData:
    """Return the cells of ``few`` with half of the genes, so that the other genes are imputed by label."""
    return few[:, ::2].copy()


@pytest.fixture(scope="module")
def expected_of_half(small: Reference, half: AnnData) -> Annotation:
    return labelled(small, half)


# These tests take the folder of a reference, because hypothesis prints arguments and a reference would fill pages.


@FEW_EXAMPLES
@given(order=st.permutations(range(120)))
def test_the_order_of_cells_does_not_change_labels(
    order: list[int], small_folder: Path, few: AnnData, expected_of_small: Annotation
) -> None:
    annotation = labelled(read_reference(small_folder), few[order].copy())
    assert annotation.labels.tolist() == expected_of_small.labels[order].tolist()
    np.testing.assert_allclose(annotation.probabilities, expected_of_small.probabilities[order], atol=1e-6)


@FEW_EXAMPLES
@given(batch_size=st.integers(1, 130), threads=st.integers(1, 4), engine=st.sampled_from(["onnx", "torch"]))
def test_batches_and_threads_do_not_change_labels(
    batch_size: int, threads: int, engine: str, graph_folder: Path, few: AnnData, expected_of_small: Annotation
) -> None:
    reference = read_reference(graph_folder)
    opened = open_engine(reference, options_of(EngineOptions, {"engine": engine, "threads": threads}))
    annotation = labelled(reference, few, opened, batch_size=batch_size)
    assert annotation.labels.tolist() == expected_of_small.labels.tolist()
    np.testing.assert_allclose(annotation.probabilities, expected_of_small.probabilities, atol=1e-4)


@FEW_EXAMPLES
@given(order=st.permutations(range(6)))
def test_the_order_of_labels_in_a_reference_does_not_change_labels(
    order: list[int], small_folder: Path, half: AnnData, expected_of_half: Annotation
) -> None:
    small = read_reference(small_folder)
    other = with_labels_in_order(small, order)
    assert other.labels.names == tuple(small.labels.names[old] for old in order)
    annotation = labelled(other, half)
    assert annotation.labels.tolist() == expected_of_half.labels.tolist()
    np.testing.assert_allclose(annotation.probabilities, expected_of_half.probabilities[:, order], atol=1e-5)
    np.testing.assert_allclose(annotation.typicality, expected_of_half.typicality, atol=1e-5)  # type: ignore[arg-type]

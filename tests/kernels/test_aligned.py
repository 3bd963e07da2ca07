"""The compiled alignment returns the same numbers as SciPy, to the bit, and refuses the same cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spikgpt import kernels
from spikgpt.cells.align import AlignedCells, aligned_chunks, joined
from spikgpt.cells.content.values import Content
from spikgpt.cells.expression import Expression
from spikgpt.cells.genes import GeneList, match_genes
from spikgpt.errors import DataError

CELLS, GENES = 30, 50
LIST = GeneList(tuple(f"G{gene}" for gene in range(0, GENES, 2)), (None,) * (GENES // 2))


def counts(random: np.random.Generator) -> sparse.csr_matrix:
    matrix = sparse.random(CELLS, GENES, density=0.3, format="csr", dtype=np.float32, rng=random)
    matrix.data = np.ceil(20 * matrix.data).astype(np.float32)
    return matrix


def with_data(matrix: sparse.csr_matrix, data: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape)


def cpm(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    totals = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1)
    return with_data(matrix, (matrix.data * np.repeat(1e6 / totals, np.diff(matrix.indptr))).astype(np.float32))


def log(matrix: sparse.csr_matrix, base: float) -> sparse.csr_matrix:
    scaled = cpm(matrix)
    return with_data(scaled, (np.log1p(scaled.data / 100) / np.log(base)).astype(np.float32))


def shuffled(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    result = matrix.copy()
    for start, stop in zip(result.indptr, result.indptr[1:], strict=False):
        result.indices[start:stop], result.data[start:stop] = (
            result.indices[start:stop][::-1],
            result.data[start:stop][::-1],
        )
    result.has_sorted_indices = False
    return result


def doubled(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the same matrix, with every value stored as two halves in the same position."""
    parts = np.repeat(matrix.data / 2, 2), np.repeat(matrix.indices, 2), 2 * matrix.indptr
    return sparse.csr_matrix(parts, matrix.shape)


def with_zeros(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    data = matrix.data.copy()
    data[::3] = 0
    return with_data(matrix, data)


def one_whole_cell(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    logs = log(matrix, np.e)
    logs.data[: logs.indptr[1]] = np.ceil(logs.data[: logs.indptr[1]])
    return logs


KINDS: dict[str, tuple[Callable[[sparse.csr_matrix], Any], Content]] = {
    "counts": (lambda matrix: matrix, Content("counts")),
    "counts as int64": (lambda matrix: matrix.astype(np.int64), Content("counts")),
    "counts as float64": (lambda matrix: matrix.astype(np.float64), Content("counts")),
    "counts as uint8": (lambda matrix: matrix.astype(np.uint8), Content("counts")),
    "dense counts": (lambda matrix: matrix.toarray(), Content("counts")),
    "columns in any order": (shuffled, Content("counts")),
    "columns twice": (doubled, Content("linear")),
    "stored zeros": (with_zeros, Content("counts")),
    "CPM": (cpm, Content("linear")),
    "natural logarithms": (lambda matrix: log(matrix, np.e), Content("log", log_base=np.e, target_sum=1e4)),
    "logarithms to base 2": (lambda matrix: log(matrix, 2), Content("log", log_base=2.0, target_sum=1e4)),
    "one cell of whole logarithms": (one_whole_cell, Content("log", log_base=np.e)),
    "mixed": (one_whole_cell, Content("linear", log_base=np.e)),
    "square roots": (lambda matrix: matrix.sqrt(), Content("linear", inverse="square roots")),
}


def expression_of(matrix: Any, content: Content, var: list[str] | None = None) -> Expression:
    names = var or [f"G{gene}" for gene in range(GENES)]
    adata = AnnData(matrix, var=pd.DataFrame(index=pd.Index(names)))
    return Expression(adata, matrix, "X", content, adata.var, adata.n_obs)


def aligned(expression: Expression, least_cells: int, chunk_size: int = 7, threads: int = 1) -> AlignedCells:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "LEAST_CELLS", least_cells)
        match = match_genes(expression.var, LIST)
        return joined(list(aligned_chunks(expression, match, chunk_size=chunk_size, threads=threads)))


def assert_same(actual: AlignedCells, expected: AlignedCells) -> None:
    for name in ("data", "indices", "indptr"):
        array, expected_array = getattr(actual.values, name), getattr(expected.values, name)
        assert array.dtype == expected_array.dtype
        assert np.array_equal(array, expected_array)
    assert np.array_equal(actual.totals, expected.totals)
    actual.values.check_format(full_check=True)
    assert np.array_equal(actual.genes_present, expected.genes_present)
    assert actual.kind == expected.kind


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), chunk_size=st.sampled_from([1, 7, 100]))
def test_compiled_values_equal_those_of_scipy_to_the_bit(kind: str, seed: int, chunk_size: int) -> None:
    change, content = KINDS[kind]
    expression = expression_of(change(counts(np.random.default_rng(seed))), content)

    assert_same(aligned(expression, 0, chunk_size, threads=2), aligned(expression, 10**9, chunk_size))


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1.5, 1e39])
@pytest.mark.parametrize("kind", ["counts", "CPM", "natural logarithms"])
def test_invalid_values_are_refused_with_the_same_message(value: float, kind: str) -> None:
    change, content = KINDS[kind]
    matrix = change(counts(np.random.default_rng(0))).astype(np.float64)
    matrix.data[len(matrix.data) // 2] = value
    expression, results = expression_of(matrix, content), []
    for least_cells in (0, 10**9):
        try:
            results.append(aligned(expression, least_cells).totals.tolist())
        except DataError as error:
            results.append(str(error))

    assert results[0] == results[1]
    assert isinstance(results[0], str) or value == 1.5


def test_columns_of_one_gene_are_summed() -> None:
    matrix = counts(np.random.default_rng(1))
    names = ["G0", "G0.1", *(f"G{gene}" for gene in range(2, GENES))]
    expression = expression_of(matrix, Content("counts"), names)

    assert_same(aligned(expression, 0), aligned(expression, 10**9))


def test_every_cell_may_express_all_genes() -> None:
    matrix = sparse.csr_matrix(np.ones((3, GENES), dtype=np.float32))
    expression = expression_of(matrix, Content("counts"))

    assert_same(aligned(expression, 0), aligned(expression, 10**9))

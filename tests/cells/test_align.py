"""Alignment of cells to the genes of a reference does not depend on chunks, gene order or spelling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells, CellsOnDemand, align, aligned_chunks, joined, log_normalise
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, ensembl_ids_of, match_genes
from spikgpt.errors import GenesError
from tests.cells.conftest import N_GENES, assert_identical, log_of, with_x


def test_aligned_counts_are_the_columns_by_name(real: AnnData, genes: GeneList) -> None:
    aligned = align(find_expression(real), genes)
    assert np.array_equal(aligned.values.toarray(), real[:, list(genes.symbols)].X.toarray())
    assert aligned.values.dtype == np.float32
    assert np.array_equal(aligned.totals, real.X.toarray().astype(np.int64).sum(axis=1))
    assert aligned.genes_present.all()
    assert np.flatnonzero(aligned.empty).tolist() == [5]


@pytest.mark.parametrize("chunk_size", [1, 7, 60])
def test_chunks_change_no_bit(real: AnnData, genes: GeneList, chunk_size: int) -> None:
    expression = find_expression(with_x(real, log_of(real)))
    chunks = list(aligned_chunks(expression, match_genes(expression.var, genes), chunk_size=chunk_size))
    assert_identical(joined(chunks), align(expression, genes))
    assert [len(chunk.totals) for chunk in chunks[:-1]] == [chunk_size] * (len(chunks) - 1)


def test_cells_on_demand_equal_those_in_memory(real: AnnData, genes: GeneList) -> None:
    every = np.arange(real.n_obs)
    expression = find_expression(real[:20].copy()).of_cells(real, every[10:])
    stored = CellsOnDemand(expression, match_genes(expression.var, genes))
    memory = stored.select(every[:-10])
    assert np.array_equal(memory.totals, real.X[10:].toarray().astype(np.int64).sum(axis=1))
    cells, columns = np.array([3, 8, 9]), np.array([0, 2])
    assert_identical(stored.select(cells, columns), memory.select(cells, columns))
    assert memory.select(cells).values.toarray().tolist() == real[cells + 10, list(genes.symbols)].X.toarray().tolist()


def test_aligned_cells_may_hold_vectors_instead_of_genes() -> None:
    vectors = np.array([[0.5, 0.0], [0.0, -2.0]])
    cells = AlignedCells.from_vectors(vectors, np.array([True, False]))
    np.testing.assert_array_equal(cells.vectors, vectors)
    assert cells.empty.tolist() == [True, False]


def test_order_of_genes_changes_no_bit(real: AnnData, genes: GeneList) -> None:
    for seed in range(5):
        cells = with_x(real, log_of(real))
        shuffled = cells[:, np.random.default_rng(seed).permutation(N_GENES)]
        assert_identical(align(find_expression(shuffled), genes), align(find_expression(cells), genes))


NAMED: dict[str, Callable[[list[str]], list[str | None]]] = {
    "id": ensembl_ids_of,
    "id with version": lambda names: [f"{gene_id}.7" for gene_id in ensembl_ids_of(names)],
    "lower case": lambda names: [name.lower() for name in names],
    "R": lambda names: [name.replace("-", ".") for name in names],
}


@pytest.mark.parametrize("naming", list(NAMED))
def test_names_change_no_bit(real: AnnData, genes: GeneList, naming: str) -> None:
    renamed = with_x(real, log_of(real))
    renamed.var_names = NAMED[naming](real.var_names.tolist())
    expected = align(find_expression(with_x(real, log_of(real))), genes)
    assert_identical(align(find_expression(renamed), genes), expected)


@pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
def test_logs_are_undone(real: AnnData, genes: GeneList, base: float) -> None:
    counts = align(find_expression(real), genes)
    plain = align(find_expression(with_x(real, log_of(real, base, None))), genes)
    assert plain.values.toarray() == pytest.approx(counts.values.toarray(), rel=1e-5)
    assert plain.totals == pytest.approx(counts.totals, rel=1e-5)
    normalised = align(find_expression(with_x(real, log_of(real, base))), genes)
    full = counts.totals > 0
    assert normalised.totals[full] == pytest.approx(1e4, rel=1e-5)
    assert log_normalise(normalised.values, normalised.totals).toarray() == pytest.approx(
        log_normalise(counts.values, counts.totals).toarray(), abs=1e-4
    )


@pytest.mark.parametrize("log", [False, True])
def test_columns_of_one_gene_are_summed(real: AnnData, genes: GeneList, log: bool) -> None:
    name = str(real.var_names[np.asarray(real.X.sum(axis=0)).argmax()])
    symbols = (name, *(symbol for symbol in genes.symbols if symbol != name))
    wanted = GeneList(symbols, (None,) * len(symbols))
    doubled = sparse.hstack([real.X, 2 * real[:, name].X, 3 * real[:, name].X], format="csr")
    cells = AnnData(doubled, obs=real.obs, var=pd.DataFrame(index=[*real.var_names, "first", "second"]))
    cells = with_x(cells, log_of(cells) if log else cells.X)
    plain = align(find_expression(cells), wanted)
    cells.var_names = [*real.var_names, name, name]
    aligned = align(find_expression(cells), wanted)
    assert aligned.values.toarray()[:, 0] == pytest.approx(6 * plain.values.toarray()[:, 0], rel=1e-6)
    assert np.array_equal(aligned.values.toarray()[:, 1:], plain.values.toarray()[:, 1:])


def test_missing_genes_are_zero_and_totals_keep_all(real: AnnData, genes: GeneList) -> None:
    extended = GeneList(("not in the query", *genes.symbols), (None, *genes.ensembl_ids))
    aligned = align(find_expression(real), extended)
    assert aligned.genes_present.tolist() == [False] + [True] * len(genes)
    expected = align(find_expression(real), genes)
    assert np.array_equal(aligned.values.toarray()[:, 1:], expected.values.toarray())
    assert not aligned.values[:, [0]].toarray().any()
    assert np.array_equal(aligned.totals, expected.totals)


def test_too_few_genes_are_refused(real: AnnData) -> None:
    with pytest.raises(GenesError, match="Found 0 of the reference's 60 genes in the query; at least 50 are needed"):
        align(find_expression(real), GeneList(tuple(f"novel{gene}" for gene in range(60)), (None,) * 60))


def test_the_query_is_unchanged(real: AnnData, genes: GeneList) -> None:
    before = real.X.copy()
    align(find_expression(real), genes)
    assert (before != real.X).nnz == 0


def test_totals_do_not_depend_on_the_order_of_any_values() -> None:
    # The values span eight orders of magnitude, so a plain float64 sum depends on the order of the values.
    rng = np.random.default_rng(0)
    symbols = [f"gene{gene}" for gene in range(3000)]
    values = np.exp(rng.uniform(-9, 9, (20, 3000))).astype(np.float32)
    genes = GeneList(tuple(symbols), (None,) * 3000)
    totals = []
    for _ in range(3):
        order = rng.permutation(3000)
        cells = AnnData(values[:, order], var=pd.DataFrame(index=[symbols[gene] for gene in order]))
        totals.append(align(find_expression(cells), genes).totals)
    assert totals[0].tobytes() == totals[1].tobytes() == totals[2].tobytes()
    assert totals[0] == pytest.approx(values.astype(np.float64).sum(axis=1), rel=1e-8)


@pytest.mark.parametrize("target", [1e4, 1e6])
def test_log_normalise_keeps_empty_cells(real: AnnData, genes: GeneList, target: float) -> None:
    aligned = align(find_expression(real), genes)
    normalised = log_normalise(aligned.values, aligned.totals, target)
    dense = aligned.values.toarray().astype(np.float64)
    expected = np.log1p(dense * target / np.maximum(aligned.totals, 1)[:, None])
    assert normalised.dtype == np.float32
    assert normalised.toarray() == pytest.approx(expected, rel=1e-6)
    assert normalised[[5]].nnz == 0
    assert aligned.values.max() == dense.max()

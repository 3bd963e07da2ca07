"""Reading and aligning cells: what is chosen, what is refused, and that nothing incidental changes a bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import AlignedCells, align, find_expression, log_normalise
from spikgpt.cells.genes import GeneList, ensembl_ids_of
from spikgpt.cells.obs import read_h5ad
from spikgpt.errors import DataError, GenesError

BARON = Path(__file__).parents[1] / "data" / "pancreas_baron_human3.h5ad"
N_CELLS, N_GENES = 60, 1200


@pytest.fixture(scope="module")
def real() -> AnnData:
    """Return counts of 60 pancreas cells and 1200 genes that have an Ensembl id; the sixth cell is empty."""
    cells = anndata.read_h5ad(BARON)[::15]
    # Symbols in the spelling of today, so that they differ from their ids in nothing but the name.
    ids = ensembl_ids_of(cells.var_names)
    named = [gene_id is not None and "." not in name for name, gene_id in zip(cells.var_names, ids, strict=True)]
    cells = cells[:N_CELLS, np.flatnonzero(named)[::13][:N_GENES]].copy()
    counts = cells.X.toarray().astype(np.float32)
    counts[5] = 0
    return AnnData(sparse.csr_matrix(counts), obs=cells.obs, var=cells.var)


@pytest.fixture(scope="module")
def genes(real: AnnData) -> GeneList:
    """Return every third gene of the cells, in reverse."""
    symbols = real.var_names[::3][::-1].tolist()
    return GeneList(tuple(symbols), tuple(ensembl_ids_of(symbols)))


def with_x(cells: AnnData, matrix: Any) -> AnnData:
    return AnnData(matrix, obs=cells.obs.copy(), var=cells.var.copy())


def log_of(cells: AnnData, base: float = np.e, target: float | None = 1e4) -> sparse.csr_matrix:
    counts = cells.X.toarray().astype(np.float64)
    if target is not None:
        counts *= target / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return sparse.csr_matrix((np.log1p(counts) / np.log(base)).astype(np.float32))


def scaled(cells: AnnData) -> npt.NDArray[np.float32]:
    dense = log_of(cells).toarray()
    return np.asarray(dense - dense.mean(axis=0), dtype=np.float32)


def through_disk(cells: AnnData, folder: Path, *, backed: bool = False) -> AnnData:
    cells.write_h5ad(folder / "cells.h5ad")
    return read_h5ad(folder / "cells.h5ad", backed=backed)


def assert_identical(first: AlignedCells, second: AlignedCells) -> None:
    for name in ("data", "indices", "indptr"):
        one, other = getattr(first.values, name), getattr(second.values, name)
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    assert first.totals.tobytes() == second.totals.tobytes()
    assert np.array_equal(first.found, second.found)
    assert np.array_equal(first.empty, second.empty)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backed", [False, True])
def test_read(real: AnnData, tmp_path: Path, backed: bool) -> None:
    cells = through_disk(real, tmp_path, backed=backed)
    assert cells.isbacked == backed
    assert cells.shape == (N_CELLS, N_GENES)


def test_repeated_names_are_read_without_a_warning(real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    repeated = real.copy()
    repeated.obs_names = ["cell"] * N_CELLS
    repeated.var_names = [*real.var_names[:-2], "extra", "extra"]
    aligned = align(find_expression(through_disk(repeated, tmp_path)), genes)
    assert_identical(aligned, align(find_expression(real), genes))


# --- choosing --------------------------------------------------------------------------------------------------------


def test_counts_in_x(real: AnnData) -> None:
    expression = find_expression(real)
    assert (expression.source, expression.kind, expression.log_base) == ("X", "counts", None)
    assert expression.n_cells == N_CELLS
    assert expression.notes == ()


@pytest.mark.parametrize("layer", ["counts", "raw_counts"])
def test_counts_in_a_layer_beat_logs_in_x(real: AnnData, layer: str) -> None:
    cells = with_x(real, log_of(real))
    cells.layers[layer] = real.X
    expression = find_expression(cells)
    assert (expression.source, expression.kind) == (f"layers[{layer!r}]", "counts")


def test_counts_in_raw_beat_logs_in_x(real: AnnData) -> None:
    cells = real.copy()
    cells.raw = real.copy()
    cells.X = log_of(real)
    expression = find_expression(cells)
    assert (expression.source, expression.kind) == ("raw", "counts")
    assert expression.notes == ()


def test_logs_in_x_beat_logs_in_raw(real: AnnData) -> None:
    cells = with_x(real, log_of(real))
    cells.raw = cells.copy()
    assert find_expression(cells).source == "X"


def test_logs_in_raw_behind_scaled_x(real: AnnData) -> None:
    cells = with_x(real, log_of(real))
    cells.raw = cells.copy()
    cells.X = scaled(real)
    expression = find_expression(cells)
    assert (expression.source, expression.kind) == ("raw", "log")
    assert len(expression.notes) == 1
    assert expression.notes[0].startswith("X holds negative values (down to -")
    assert expression.notes[0].endswith("as scaled or centred data does, so raw was read.")


def test_all_genes_in_raw_beat_a_selection_in_x(real: AnnData) -> None:
    cells = with_x(real, log_of(real))
    cells.raw = cells.copy()
    subset = cells[:, : N_GENES // 3].copy()
    subset.layers["counts"] = real.X[:, : N_GENES // 3]
    expression = find_expression(subset)
    assert expression.source == "raw"
    assert len(expression.var) == N_GENES
    assert expression.target_sum == pytest.approx(1e4, rel=1e-6)
    assert expression.notes == ("X has 400 genes of 1200, so raw was read.",)


def test_requested_layer(real: AnnData) -> None:
    cells = real.copy()
    cells.layers["mine"] = log_of(real)
    expression = find_expression(cells, layer="mine")
    assert (expression.source, expression.kind) == ("layers['mine']", "log")


def test_requested_layer_is_missing(real: AnnData) -> None:
    cells = real.copy()
    cells.layers["mine"] = cells.X
    with pytest.raises(
        DataError, match=r"^There is no layer 'counts'; the layers are mine\. Name one of them, or none"
    ):
        find_expression(cells, layer="counts")


def test_requested_layer_is_scaled(real: AnnData) -> None:
    cells = real.copy()
    cells.layers["scaled"] = scaled(real)
    with pytest.raises(DataError, match=r"layers\['scaled'\] holds negative values \(down to -"):
        find_expression(cells, layer="scaled")


def test_x_missing_but_layer_there(real: AnnData) -> None:
    cells = AnnData(obs=real.obs, var=real.var, layers={"counts": real.X})
    assert find_expression(cells).source == "layers['counts']"


# --- telling what values are -----------------------------------------------------------------------------------------


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


# --- refusing --------------------------------------------------------------------------------------------------------


def test_scaled_values_are_refused(real: AnnData) -> None:
    cells = with_x(real, scaled(real))
    cells.layers["mine"] = real.X
    expected = (
        r"^No expression values can be read: X holds negative values \(down to -\d\.\d+\), as scaled or centred data "
        r"does\. The layers are mine\. SpikGPT reads raw counts or log-normalised values\. Scaling cannot be undone: "
        r"take the counts from before it, put them into layers\['counts'\] or raw, or name the layer that holds them\.$"
    )
    with pytest.raises(DataError, match=expected):
        find_expression(cells)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(real: AnnData, bad: float) -> None:
    dense = real.X.toarray().astype(np.float64)
    dense[3, 3] = bad
    with pytest.raises(DataError, match="X holds NaN or infinite values. There are no layers."):
        find_expression(with_x(real, dense))


def test_only_negative_values_are_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match=r"X holds negative values \(down to -[\d.e+]+\) and no positive ones"):
        find_expression(with_x(real, -real.X))


def test_zeros_are_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match="X holds only zeros"):
        find_expression(with_x(real, np.zeros(real.shape, dtype=np.float32)))


def test_text_is_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match="cannot be used .The expression matrix holds object values; expected numbers"):
        find_expression(with_x(real, np.full(real.shape, "1", dtype=object)))


def test_missing_x_is_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match="No expression values can be read: X is missing"):
        find_expression(AnnData(obs=real.obs, var=real.var))


def test_no_cells_or_genes(real: AnnData) -> None:
    with pytest.raises(DataError, match="^The AnnData has 0 cells and 1200 genes; it needs at least one of each"):
        find_expression(real[:0])
    with pytest.raises(DataError, match="^The AnnData has 60 cells and 0 genes"):
        find_expression(real[:, :0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1.0, r"^X holds a negative value \(-1\) in cell 'cell 1' \(row 1\)\. SpikGPT reads"),
        (np.nan, r"^X holds a NaN or infinite value \(nan\) in cell 'cell 1' \(row 1\)"),
        (900.0, r"^X holds a value too large for a logarithm, unlike other cells \(900\) in cell 'cell 1' \(row 1\)"),
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 4096])
def test_bad_value_in_a_row_that_was_not_sampled(real: AnnData, bad: float, message: str, chunk_size: int) -> None:
    logs = sparse.vstack([log_of(real)] * 40, format="csr").tolil()
    logs[1, 7] = bad
    obs = pd.DataFrame(index=[f"cell {row}" for row in range(logs.shape[0])])
    expression = find_expression(AnnData(logs.tocsr(), obs=obs, var=real.var))
    symbols = tuple(real.var_names)
    with pytest.raises(DataError, match=message):
        align(expression, GeneList(symbols, (None,) * len(symbols)), chunk_size=chunk_size)


# --- aligning --------------------------------------------------------------------------------------------------------


def test_aligned_counts_are_the_columns_by_name(real: AnnData, genes: GeneList) -> None:
    aligned = align(find_expression(real), genes)
    assert np.array_equal(aligned.values.toarray(), real[:, list(genes.symbols)].X.toarray())
    assert aligned.values.dtype == np.float32
    assert np.array_equal(aligned.totals, real.X.toarray().astype(np.int64).sum(axis=1))
    assert aligned.found.all()
    assert np.flatnonzero(aligned.empty).tolist() == [5]


STORED: dict[str, Callable[[AnnData], Any]] = {
    "dense": lambda cells: cells.X.toarray(),
    "csc": lambda cells: cells.X.tocsc(),
    "csr array": lambda cells: sparse.csr_array(cells.X),
    "float64": lambda cells: cells.X.astype(np.float64),
}


@pytest.mark.parametrize("values", ["counts", "log", "linear"])
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("stored", list(STORED))
def test_storage_changes_no_bit(
    real: AnnData, genes: GeneList, tmp_path: Path, stored: str, backed: bool, values: str
) -> None:
    cells = with_x(real, {"counts": real.X, "log": log_of(real), "linear": log_of(real).expm1()}[values])
    expected = align(find_expression(cells), genes)
    assert expected.kind == values
    other = through_disk(with_x(cells, STORED[stored](cells)), tmp_path, backed=backed)
    assert_identical(align(find_expression(other), genes), expected)


def test_backed_raw_changes_no_bit(real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    cells = real.copy()
    cells.raw = real.copy()
    cells.X = scaled(real)
    expression = find_expression(through_disk(cells, tmp_path, backed=True))
    assert expression.source == "raw"
    assert_identical(align(expression, genes), align(find_expression(real), genes))


@pytest.mark.parametrize("chunk_size", [1, 7, 60])
def test_chunks_change_no_bit(real: AnnData, genes: GeneList, chunk_size: int) -> None:
    expression = find_expression(with_x(real, log_of(real)))
    done: list[int] = []
    aligned = align(expression, genes, chunk_size=chunk_size, progress=done.append)
    assert_identical(aligned, align(expression, genes))
    assert done == [*range(chunk_size, N_CELLS, chunk_size), N_CELLS]


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
    doubled = sparse.hstack([real.X, real[:, name].X, real[:, name].X], format="csr")
    cells = AnnData(doubled, obs=real.obs, var=pd.DataFrame(index=[*real.var_names, "first", "second"]))
    cells = with_x(cells, log_of(cells) if log else cells.X)
    plain = align(find_expression(cells), wanted)
    cells.var_names = [*real.var_names, name, name]
    aligned = align(find_expression(cells), wanted)
    assert aligned.values.toarray()[:, 0] == pytest.approx(3 * plain.values.toarray()[:, 0], rel=1e-6)
    assert np.array_equal(aligned.values.toarray()[:, 1:], plain.values.toarray()[:, 1:])
    assert "The query has several columns for 1 of the genes; their values were summed." in aligned.notes


def test_missing_genes_are_zero_and_totals_keep_all(real: AnnData, genes: GeneList) -> None:
    extended = GeneList(("not in the query", *genes.symbols), (None, *genes.ensembl_ids))
    aligned = align(find_expression(real), extended)
    assert aligned.found.tolist() == [False] + [True] * len(genes)
    assert aligned.match.columns[0] == -1
    expected = align(find_expression(real), genes)
    assert np.array_equal(aligned.values.toarray()[:, 1:], expected.values.toarray())
    assert not aligned.values[:, [0]].toarray().any()
    assert np.array_equal(aligned.totals, expected.totals)


def test_too_few_genes(real: AnnData) -> None:
    with pytest.raises(GenesError, match="Found 0 of the reference's 60 genes in the query; at least 50 are needed"):
        align(find_expression(real), GeneList(tuple(f"novel{gene}" for gene in range(60)), (None,) * 60))


def test_notes_of_choice_and_match_are_joined(real: AnnData, genes: GeneList) -> None:
    cells = with_x(real, log_of(real, 2.0))
    cells.var_names = [name.capitalize() for name in real.var_names]
    base, mouse = align(find_expression(cells), genes).notes
    assert base == "The values were taken for logarithms to base 2."
    assert mouse.startswith("The query looks like mouse")


def test_the_query_is_left_as_it_was(real: AnnData, genes: GeneList) -> None:
    before = real.X.copy()
    align(find_expression(real), genes)
    assert (before != real.X).nnz == 0


def test_totals_do_not_depend_on_the_order_of_any_values() -> None:
    # Values over eight orders of magnitude: a plain float64 sum differs between orders.
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


# --- normalising -----------------------------------------------------------------------------------------------------


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


# --- labels ----------------------------------------------------------------------------------------------------------

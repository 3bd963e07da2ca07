"""Choice of the expression values: preferred sources, and refused values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import aligned_chunks
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, match_genes
from spikgpt.cells.matrices import sampled_rows
from spikgpt.errors import DataError
from tests.cells.conftest import N_CELLS, N_GENES, log_of, scaled, with_x

# --- choosing --------------------------------------------------------------------------------------------------------


def test_counts_in_x_are_read(real: AnnData) -> None:
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


def test_logs_in_raw_beat_scaled_x(real: AnnData) -> None:
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


def test_a_requested_layer_is_read(real: AnnData) -> None:
    cells = real.copy()
    cells.layers["mine"] = log_of(real)
    expression = find_expression(cells, layer="mine")
    assert (expression.source, expression.kind) == ("layers['mine']", "log")


def test_x_and_raw_can_be_requested(real: AnnData) -> None:
    cells = real.copy()
    cells.raw = real
    cells.X = log_of(real)
    assert find_expression(cells).source == "raw"
    for name in ("X", "raw"):
        assert find_expression(cells, layer=name).source == name
    cells.layers["raw"] = cells.layers["X"] = log_of(real)
    for name in ("X", "raw"):
        assert find_expression(cells, layer=name).source == f"layers[{name!r}]"
    del cells.layers["raw"]
    cells.raw = None
    with pytest.raises(DataError, match=r"no layer 'raw'; the layers are X\. Name one of them, X, or leave"):
        find_expression(cells, layer="raw")


def test_a_missing_layer_is_refused(real: AnnData) -> None:
    cells = real.copy()
    cells.layers["mine"] = cells.X
    with pytest.raises(
        DataError, match=r"^There is no layer 'counts'; the layers are mine\. Name one of them, X, or leave"
    ):
        find_expression(cells, layer="counts")


def test_a_scaled_layer_is_refused(real: AnnData) -> None:
    cells = real.copy()
    cells.layers["scaled"] = scaled(real)
    with pytest.raises(DataError, match=r"layers\['scaled'\] holds negative values \(down to -"):
        find_expression(cells, layer="scaled")


def test_a_layer_is_read_if_x_is_missing(real: AnnData) -> None:
    cells = AnnData(obs=real.obs, var=real.var, layers={"counts": real.X})
    assert find_expression(cells).source == "layers['counts']"


# --- refusing --------------------------------------------------------------------------------------------------------


def test_scaled_values_are_refused(real: AnnData) -> None:
    cells = with_x(real, scaled(real))
    cells.layers["mine"] = real.X
    expected = (
        r"^No expression values can be read: X holds negative values \(down to -\d\.\d+\), as scaled or centred data "
        r"does\. The layers are mine\. SpikGPT reads raw counts or log-normalised values\. Put the raw "
        r"counts from before any scaling into layers\['counts'\] or raw, or name the layer that holds them with layer= "
        r"\(--layer\)\.$"
    )
    with pytest.raises(DataError, match=expected):
        find_expression(cells)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(real: AnnData, bad: float) -> None:
    dense = real.X.toarray().astype(np.float64)
    dense[3, 3] = bad
    with pytest.raises(DataError, match="X holds NaN or infinite values. There are no layers.") as caught:
        find_expression(with_x(real, dense))
    assert "Scaling" not in str(caught.value)
    assert "Take the counts from before the step" in str(caught.value)


def test_only_negative_values_are_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match=r"X holds negative values \(down to -[\d.e+]+\) and no positive ones"):
        find_expression(with_x(real, -real.X))


def test_zeros_are_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match="X holds only zeros"):
        find_expression(with_x(real, np.zeros(real.shape, dtype=np.float32)))


def test_text_is_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match="cannot be used .The expression matrix holds text; expected numbers"):
        find_expression(with_x(real, np.full(real.shape, "1", dtype=object)))


def test_missing_x_is_refused(real: AnnData) -> None:
    with pytest.raises(DataError, match="No expression values can be read: X is missing"):
        find_expression(AnnData(obs=real.obs, var=real.var))


def test_no_cells_or_genes_are_refused(real: AnnData) -> None:
    with pytest.raises(
        DataError, match="^The AnnData has 0 cells and 1200 genes; expected at least one cell and one gene"
    ):
        find_expression(real[:0])
    with pytest.raises(DataError, match="^The AnnData has 60 cells and 0 genes"):
        find_expression(real[:, :0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1.0, r"^X holds a negative value \(-1\) in cell 'cell 25' \(row 25\)\. SpikGPT reads"),
        (np.nan, r"^X holds a NaN or infinite value \(nan\) in cell 'cell 25' \(row 25\)"),
        (900.0, r"^X holds a value too large for a logarithm, unlike other cells \(900\) in cell 'cell 25' \(row 25\)"),
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 4096])
def test_a_bad_value_in_a_row_outside_the_sample_is_refused(
    real: AnnData, bad: float, message: str, chunk_size: int
) -> None:
    logs = sparse.vstack([log_of(real)] * 40, format="csr").tolil()
    assert 25 not in sampled_rows(logs.shape[0])
    logs[25, 7] = bad
    obs = pd.DataFrame(index=[f"cell {row}" for row in range(logs.shape[0])])
    expression = find_expression(AnnData(logs.tocsr(), obs=obs, var=real.var))
    symbols = tuple(real.var_names)
    match = match_genes(expression.var, GeneList(symbols, (None,) * len(symbols)))
    with pytest.raises(DataError, match=message):
        list(aligned_chunks(expression, match, chunk_size=chunk_size))


# --- gene names ------------------------------------------------------------------------------------------------------


def test_a_missing_column_of_gene_names_is_named(real: AnnData) -> None:
    cells = real.copy()
    cells.var["my_symbols"] = cells.var_names
    assert find_expression(cells, gene_key="my_symbols").source == "X"
    with pytest.raises(DataError, match="var has no column 'my_symbol'; it has .* Did you mean 'my_symbols'"):
        find_expression(cells, gene_key="my_symbol")


def test_a_matrix_without_the_column_is_not_read(real: AnnData) -> None:
    cells = real.copy()
    cells.raw = real.copy()
    cells.X = log_of(real)
    assert find_expression(cells).source == "raw"
    cells.var["my_symbols"] = cells.var_names
    assert find_expression(cells, gene_key="my_symbols").source == "X"
    with pytest.raises(DataError, match="var has no column 'my_symbols'"):
        find_expression(cells, layer="raw", gene_key="my_symbols")


def test_repeats_are_recognised_by_the_named_column(real: AnnData) -> None:
    names = pd.Index([f"gene {number}" for number in range(N_GENES + 1)])
    often = int((real.X > 0).sum(axis=0).argmax())
    cells = AnnData(real.X[:, [*range(N_GENES), often]], var=pd.DataFrame(index=names))
    cells.var["my_symbols"] = pd.Categorical([*real.var_names, real.var_names[often]])
    assert len(find_expression(cells).var) == N_GENES + 1
    assert len(find_expression(cells, gene_key="my_symbols").var) == N_GENES
    cells.var["my_symbols"] = pd.Categorical([*real.var_names[:-1], None, None])
    assert len(find_expression(cells, gene_key="my_symbols").var) == N_GENES + 1

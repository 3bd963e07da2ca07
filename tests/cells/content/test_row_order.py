"""Counts whose rows belong to other cells than X are refused, and counts of real workflows are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.row_order import out_of_place
from spikgpt.cells.expression import find_expression
from spikgpt.errors import DataError
from tests.cells.conftest import BARON, log_of, with_x
from tests.cells.content.test_scaling import deviations, smoothed


@pytest.fixture(scope="module")
def cells_of(deep: AnnData) -> dict[str, AnnData]:
    """Return counts of 1500 genes in 120 cells of several types, and in 120 beta cells."""
    read = anndata.read_h5ad(BARON)
    beta = read[(read.obs["cell_type"].astype(str) == "beta").to_numpy()][:120]
    kinds = {"several": deep, "beta": beta}
    for name, cells in kinds.items():
        most = np.argsort(-np.asarray((cells.X > 0).sum(axis=0)).ravel(), kind="stable")[:1500]
        counts = sparse.csr_matrix(cells.X[:, most], dtype=np.float32)
        kinds[name] = AnnData(counts, obs=cells.obs.copy(), var=cells.var.iloc[most].copy())
    return kinds


def standard(cells: AnnData) -> Any:
    logs = log_of(cells).toarray()
    return np.clip((logs - logs.mean(axis=0)) / deviations(logs), -10, 10)


def residuals(cells: AnnData) -> Any:
    """Return log values with the total count of each cell regressed out, as by sc.pp.regress_out."""
    logs, totals = log_of(cells).toarray(), np.asarray(cells.X.sum(axis=1))
    design = np.hstack([np.ones_like(totals), totals])
    return logs - design @ np.linalg.lstsq(design, logs, rcond=None)[0]


def components(cells: AnnData) -> Any:
    """Return centred log values, reconstructed from ten principal components."""
    logs = log_of(cells).toarray()
    u, values, v = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    return (u[:, :10] * values[:10]) @ v[:10]


X: dict[str, Callable[[AnnData], Any]] = {
    "logs": log_of,
    "scaled": standard,
    "residuals": residuals,
    "binary": lambda cells: (cells.X > 0).astype(np.float32),
    "smoothed": lambda cells: smoothed(log_of(cells).toarray()) + 0.05 * standard(cells),
    "components": components,
}
ORDERS: dict[str, Callable[[int], Any]] = {
    "shuffled": lambda n_cells: np.random.default_rng(0).permutation(n_cells),
    "reversed": lambda n_cells: np.arange(n_cells)[::-1],
    "half shuffled": lambda n_cells: np.r_[np.random.default_rng(0).permutation(n_cells // 2), n_cells // 2 : n_cells],
}


def with_counts(cells: AnnData, values: Any, *, order: Any, where: str, genes: Any = slice(None)) -> AnnData:
    """Return cells with ``values`` in X, and with counts in a layer or in raw whose rows are in ``order``."""
    both = with_x(cells, values)[:, genes].copy()
    if where == "raw":
        both.raw = AnnData(cells.X[order], obs=both.obs, var=cells.var)
    else:
        both.layers[where] = cells.X[order][:, genes]
    return both


@pytest.mark.parametrize("where", ["counts", "raw"])
@pytest.mark.parametrize("kind", ["several", "beta"])
@pytest.mark.parametrize("x", X)
def test_rows_of_the_same_cells_are_read(cells_of: dict[str, AnnData], x: str, where: str, kind: str) -> None:
    cells = cells_of[kind]
    both = with_counts(cells, X[x](cells), order=slice(None), where=where, genes=np.arange(cells.n_vars) % 2 == 0)
    assert where in find_expression(both, layer=where).source


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["several", "beta"])
@pytest.mark.parametrize(("x", "where"), [("logs", "raw"), ("scaled", "counts"), ("residuals", "raw")])
def test_rows_of_other_cells_are_refused(
    cells_of: dict[str, AnnData], x: str, where: str, order: str, kind: str
) -> None:
    cells = cells_of[kind]
    both = with_counts(cells, X[x](cells), order=ORDERS[order](cells.n_obs), where=where)
    for layer in (None, where):
        with pytest.raises(DataError, match=rf"^The rows of .*{where}.* do not belong to the cells of X: \d+ of 100"):
            find_expression(both, layer=layer)


def test_genes_are_compared_by_name(deep: AnnData) -> None:
    both = with_counts(deep, standard(deep), order=slice(None), where="raw")
    reordered = both[:, ::-3].copy()
    assert find_expression(reordered).source == "raw"
    reordered.var_names = reordered.var_names[::-1]
    with pytest.raises(DataError, match="do not belong"):
        find_expression(reordered)
    reordered.var_names = [f"other {name}" for name in reordered.var_names]
    assert find_expression(reordered).source == "raw"


def test_raw_of_other_cells_is_refused_beside_counts_in_x(deep: AnnData) -> None:
    both = with_counts(deep, deep.X, order=ORDERS["shuffled"](deep.n_obs), where="raw")
    with pytest.raises(DataError, match=r"^The rows of X do not belong to the cells of raw: .* layer='X'"):
        find_expression(both)
    assert find_expression(both, layer="X").source == "X"


def test_the_row_order_is_not_checked_with_too_few_cells_or_genes(deep: AnnData) -> None:
    names = (deep.var_names, deep.var_names)
    reordered = deep.X[::-1]
    assert out_of_place(deep.X, reordered, names, (None, None)).endswith("of 100 sampled cells")
    assert not out_of_place(deep.X[:19], reordered[:19], names, (None, None))
    few = np.arange(19)
    assert not out_of_place(deep.X, reordered, (deep.var_names[:19],) * 2, (few, few))
    assert not out_of_place(deep.X, sparse.csr_matrix(deep.shape), names, (None, None))

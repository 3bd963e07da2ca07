"""Marker genes agree with those of scanpy, and each cell is read once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import Expression, find_expression
from spikgpt.report import markers as markers_module
from spikgpt.report.markers import MarkerFinder
from spikgpt.types import Rows


def by_scanpy(cells: AnnData, inside: Rows, outside: Rows) -> pd.DataFrame:
    """Return scanpy's Wilcoxon test of the cells inside against the cells outside: a row for each marker gene."""
    both = cells[np.concatenate([inside, outside])].copy()
    both.X = both.X.astype(np.float32)
    both.obs["side"] = pd.Categorical(["inside"] * len(inside) + ["outside"] * len(outside))
    scanpy.pp.normalize_total(both, target_sum=1e4)
    scanpy.pp.log1p(both)
    scanpy.tl.rank_genes_groups(both, "side", groups=["inside"], reference="outside", method="wilcoxon")
    table: pd.DataFrame = scanpy.get.rank_genes_groups_df(both, "inside", pval_cutoff=0.05, log2fc_min=1)
    return table.set_index("names")


@pytest.mark.slow
@pytest.mark.parametrize(("inside", "outside"), [("alpha", "beta"), ("beta", "alpha"), ("delta", "beta")])
def test_markers_agree_with_scanpy(query: AnnData, monkeypatch: pytest.MonkeyPatch, inside: str, outside: str) -> None:
    monkeypatch.setattr("spikgpt.report.markers.MOST_MARKERS", query.n_vars)
    rows = [np.flatnonzero(query.obs["cell_type"] == name) for name in (inside, outside)]
    markers = MarkerFinder(find_expression(query)).markers(rows[0], rows[1])
    table = by_scanpy(query, rows[0], rows[1])
    assert len(markers) > 5
    assert {marker.gene for marker in markers} == set(table.index)
    own = table.loc[[marker.gene for marker in markers]]
    # scanpy orders genes of equal score arbitrarily.
    assert (np.diff(own["scores"]) <= 0).all()
    np.testing.assert_allclose([marker.log2_fold_change for marker in markers], own["logfoldchanges"], rtol=1e-3)
    np.testing.assert_allclose([marker.adjusted_p for marker in markers], own["pvals_adj"], rtol=1e-6)
    shares = [np.asarray((query[cells, own.index].X != 0).mean(axis=0)).ravel() for cells in rows]
    np.testing.assert_allclose([marker.share_inside for marker in markers], shares[0])
    np.testing.assert_allclose([marker.share_outside for marker in markers], shares[1])


def test_among_equal_scores_the_larger_change_is_first() -> None:
    counts = np.ones((24, 12), dtype=np.int64)
    counts[:12, 3:6] = [4, 9, 6]
    counts[12:, 3:6] = 0
    markers = MarkerFinder(find_expression(AnnData(sparse.csr_matrix(counts)))).markers(
        np.arange(12), np.arange(12, 24)
    )
    assert [marker.gene for marker in markers] == ["4", "5", "3"]


def test_shared_comparison_cells_are_read_once(query: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    before = markers_module._log_values

    def counting(expression: Expression, rows: Rows) -> sparse.csr_matrix:
        read.append(len(rows))
        return before(expression, rows)

    monkeypatch.setattr(markers_module, "_log_values", counting)
    finder = MarkerFinder(find_expression(query))
    first, second, rest = np.arange(20), np.arange(20, 50), np.arange(50, 300)
    together = [finder.markers(first, rest), finder.markers(second, rest), finder.markers(first, second)]
    assert read == [250, 20, 30, 30, 20]
    alone = [MarkerFinder(find_expression(query)).markers(*rows) for rows in ((first, rest), (second, rest))]
    assert together[:2] == alone

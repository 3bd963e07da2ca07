"""Metrics of a reference on other cells equal metrics computed from its annotation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.options import TrainOptions
from spikgpt.reference.files import Reference
from spikgpt_recipes.evaluate import evaluate_left_out, evaluate_study, leave_label_out, pool_studies
from tests.conftest import labelled, steps_at_least


@pytest.fixture
def query_file(query: AnnData, tmp_path: Path) -> tuple[AnnData, Path]:
    query.write_h5ad(tmp_path / "query.h5ad")
    return query, tmp_path / "query.h5ad"


def test_metrics_equal_those_of_the_annotation(small: Reference, query_file: tuple[AnnData, Path]) -> None:
    cells, path = query_file
    evaluation = evaluate_study(small, "Baron", path)
    annotation = labelled(small, cells.copy())
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, small.labels.names)
    assert evaluation.record.cells == known.sum() == len(evaluation.truth)
    assert evaluation.record.accuracy == pytest.approx((annotation.best_labels == truth)[known].mean())
    assert evaluation.record.known_unknown == pytest.approx(annotation.rejected[known].mean())
    assert evaluation.record.known_unknown_by_paper == pytest.approx((annotation.confidence < 0.95)[known].mean())
    assert sum(evaluation.record.unseen_labels.values()) == (~known).sum()
    pooled = pool_studies([evaluation, evaluation])
    assert pooled.cells == 2 * known.sum()
    assert pooled.accuracy == pytest.approx(evaluation.record.accuracy)


def test_cells_of_a_left_out_label_are_counted(small: Reference, query: AnnData) -> None:
    cells = query.copy()
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    left_out = next(name for name in truth if name not in small.labels.names)
    row = evaluate_left_out(left_out, "Baron", small, cells)
    annotation = labelled(small, query.copy())
    unseen = truth == left_out
    assert (row.unseen_cells, row.known_cells) == (unseen.sum(), np.isin(truth, small.labels.names).sum())
    assert row.unseen_unknown == pytest.approx(annotation.rejected[unseen].mean())
    assert row.unseen_unknown_by_paper == pytest.approx((annotation.confidence < 0.95)[unseen].mean())
    assert sum(row.mistaken_for.values()) <= unseen.sum()


@pytest.mark.parametrize(("batch_key", "title"), [(None, "held-out cells"), ("batch", "held-out batch one")])
def test_without_a_query_study_reference_cells_are_held_out(
    cells: AnnData, tmp_path: Path, batch_key: str | None, title: str
) -> None:
    cells.write_h5ad(tmp_path / "reference.h5ad")
    with steps_at_least(60):
        options = TrainOptions(batch_key=batch_key, seed=1)
        (row,) = leave_label_out("alpha", tmp_path / "reference.h5ad", {}, options)
    assert (row.label, row.study) == ("alpha", title)
    # With a batch key, the 120 cells of batch "one" are held out; otherwise 30% of the cells of each label.
    n_held_out = 120 if batch_key else 108
    assert row.unseen_cells + row.known_cells == n_held_out
    assert row.unseen_cells == pytest.approx(n_held_out / 6, abs=3)
    assert row.auroc > 0.8

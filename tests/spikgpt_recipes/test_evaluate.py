"""Figures of what a reference makes of other cells, against the annotation that they come from."""

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
def asked(query: AnnData, tmp_path: Path) -> tuple[AnnData, Path]:
    query.write_h5ad(tmp_path / "query.h5ad")
    return query, tmp_path / "query.h5ad"


def test_figures_are_those_of_the_annotation(small: Reference, asked: tuple[AnnData, Path]) -> None:
    cells, path = asked
    found = evaluate_study(small, "Baron", path)
    annotation = labelled(small, cells.copy())
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, small.labels.names)
    assert found.record.cells == known.sum() == len(found.truth)
    assert found.record.accuracy == pytest.approx((annotation.best_labels == truth)[known].mean())
    assert found.record.known_unknown == pytest.approx(annotation.rejected[known].mean())
    assert found.record.known_unknown_by_paper == pytest.approx((annotation.confidence < 0.95)[known].mean())
    assert sum(found.record.unseen_labels.values()) == (~known).sum()
    both = pool_studies([found, found])
    assert both.cells == 2 * known.sum()
    assert both.accuracy == pytest.approx(found.record.accuracy)


def test_what_became_of_a_label_is_counted(small: Reference, query: AnnData) -> None:
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
def test_without_a_study_cells_of_the_reference_are_held_out(
    cells: AnnData, tmp_path: Path, batch_key: str | None, title: str
) -> None:
    cells.write_h5ad(tmp_path / "reference.h5ad")
    with steps_at_least(60):
        options = TrainOptions(batch_key=batch_key, seed=1)
        (row,) = leave_label_out("alpha", tmp_path / "reference.h5ad", {}, options)
    assert (row.label, row.study) == ("alpha", title)
    # A third of the cells are of batch one, else 30% of each label are held out.
    held = 120 if batch_key else 108
    assert row.unseen_cells + row.known_cells == held
    assert row.unseen_cells == pytest.approx(held / 6, abs=3)
    assert row.auroc > 0.8

"""Figures of what a reference makes of other cells, against the annotation that they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.building.evaluating import ask, became_of, together
from spikgpt.reference.files import Reference
from tests.conftest import labelled


@pytest.fixture
def asked(query: AnnData, tmp_path: Path) -> tuple[AnnData, Path]:
    query.write_h5ad(tmp_path / "query.h5ad")
    return query, tmp_path / "query.h5ad"


def test_figures_are_those_of_the_annotation(small: Reference, asked: tuple[AnnData, Path]) -> None:
    cells, path = asked
    found = ask(small, "Baron", path)
    annotation = labelled(small, cells.copy())
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, small.labels.names)
    assert found.figures.cells == known.sum() == len(found.truth)
    assert found.figures.accuracy == pytest.approx((annotation.best_labels == truth)[known].mean())
    assert found.figures.known_unknown == pytest.approx(annotation.rejected[known].mean())
    assert found.figures.known_unknown_by_paper == pytest.approx((annotation.confidence < 0.95)[known].mean())
    assert sum(found.figures.unseen_labels.values()) == (~known).sum()
    both = together([found, found])
    assert both.cells == 2 * known.sum()
    assert both.accuracy == pytest.approx(found.figures.accuracy)


def test_what_became_of_a_label_is_counted(small: Reference, query: AnnData) -> None:
    cells = query.copy()
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    left_out = next(name for name in truth if name not in small.labels.names)
    row = became_of(left_out, "Baron", small, cells)
    annotation = labelled(small, query.copy())
    unseen = truth == left_out
    assert (row.unseen_cells, row.known_cells) == (unseen.sum(), np.isin(truth, small.labels.names).sum())
    assert row.unseen_unknown == pytest.approx(annotation.rejected[unseen].mean())
    assert row.unseen_unknown_by_paper == pytest.approx((annotation.confidence < 0.95)[unseen].mean())
    assert sum(row.mistaken_for.values()) <= unseen.sum()

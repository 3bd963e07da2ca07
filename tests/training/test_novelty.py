"""The leave-one-type-out study trains without the type, and counts what became of it."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.errors import LabelsError
from spikgpt.options import TrainOptions
from spikgpt.training.novelty import NoveltyReport, study
from tests.conftest import steps_at_least


@pytest.fixture(scope="module")
def done() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(cells: AnnData, done: list[str], tmp_path_factory: pytest.TempPathFactory) -> NoveltyReport:
    options = TrainOptions(checkpoints=tmp_path_factory.mktemp("novelty"))
    with steps_at_least(60):
        return study(cells, "cell_type", types=["ductal", "alpha"], options=options, on_type=done.append)


def test_types_that_are_left_out_are_found(report: NoveltyReport, done: list[str]) -> None:
    assert [row.label for row in report.rows] == done == ["alpha", "ductal"]
    for row in report.rows:
        assert row.unseen_cells == 18
        assert row.known_cells == 90
        assert row.auroc > 0.9
        assert row.unseen_found > 0.5
        assert 0 <= row.known_unknown < 0.2
        assert row.label not in row.mistaken_for
        assert sum(row.mistaken_for.values()) == row.unseen_cells
    assert report.mean_auroc == pytest.approx(np.mean([row.auroc for row in report.rows]))


def test_the_table_and_the_picture(report: NoveltyReport) -> None:
    table = report.table()
    assert table["label"].tolist() == ["alpha", "ductal"]
    assert table["mistaken_for"].str.contains(r"[a-z_]+ \d+").all()
    assert report.picture().startswith(b"\x89PNG")


def test_too_few_types_are_refused(cells: AnnData) -> None:
    two = cells[cells.obs["cell_type"].isin(["beta", "ductal"])].copy()
    with pytest.raises(LabelsError, match="None of 2 types"):
        study(two, "cell_type")
    with pytest.raises(LabelsError, match="no type .hepatocyte. with enough cells; it has acinar"):
        study(cells, "cell_type", types=["hepatocyte"])


@pytest.mark.usefixtures("brief")
def test_training_and_query_read_the_same_layer_and_whole_donors(cells: AnnData) -> None:
    adata = cells.copy()
    adata.layers["counts"] = cells.X
    adata.X = cells.X * 0  # nothing to read there
    (row,) = study(adata, "cell_type", types=["beta"], options=TrainOptions(layer="counts", batch_key="batch")).rows
    of_batch = [(adata.obs["cell_type"] == "beta") & (adata.obs["batch"] == name) for name in ("one", "two")]
    assert row.unseen_cells in [int(mask.sum()) for mask in of_batch]
    assert row.auroc > 0.8

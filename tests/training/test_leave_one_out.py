"""Leave-one-type-out trains without a type, and measures the rejection of the type's cells."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.errors import LabelsError
from spikgpt.options import TrainOptions
from spikgpt.training.leave_one_out import LeaveOneOutReport, LeaveOneOutResult, leave_one_type_out
from tests.conftest import steps_at_least


@pytest.fixture(scope="module")
def done() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(cells: AnnData, done: list[str], tmp_path_factory: pytest.TempPathFactory) -> LeaveOneOutReport:
    options = TrainOptions(checkpoints=tmp_path_factory.mktemp("types"))
    with steps_at_least(60):
        return leave_one_type_out(cells, "cell_type", types=["ductal", "alpha"], options=options, on_type=done.append)


@pytest.mark.slow
def test_left_out_types_are_detected(report: LeaveOneOutReport, done: list[str]) -> None:
    assert [row.label for row in report.rows] == done == ["alpha", "ductal"]
    for row in report.rows:
        assert row.unseen_cells == 18
        assert row.known_cells == 90
        assert row.auroc > 0.9
        assert row.tpr_at_5_fpr > 0.5
        assert 0 <= row.known_unknown < 0.2
        assert row.label not in row.mistaken_for
        assert sum(row.mistaken_for.values()) == row.unseen_cells
    assert report.mean_auroc == pytest.approx(np.mean([row.auroc for row in report.rows]))


@pytest.mark.slow
def test_a_report_has_a_table_and_a_picture(report: LeaveOneOutReport) -> None:
    table = report.table()
    assert table["label"].tolist() == ["alpha", "ductal"]
    assert table["mistaken_for"].str.contains(r"[a-z_]+ \d+").all()
    assert table["unseen_found"].tolist() == table["tpr_at_5_fpr"].tolist()
    assert report.picture().startswith(b"\x89PNG")


def test_a_report_has_a_row_for_each_type() -> None:
    alpha = LeaveOneOutResult("alpha", 40, 200, 0.9, 0.75, 0.5, 0.05, {"beta": 38, "delta": 2})
    beta = LeaveOneOutResult("beta", 60, 180, 0.7, 0.25, 0.1, 0.02, {"alpha": 60})
    report = LeaveOneOutReport((alpha, beta))
    assert report.mean_auroc == pytest.approx(0.8)
    table = report.table()
    assert table["label"].tolist() == ["alpha", "beta"]
    assert table["mistaken_for"].tolist() == ["beta 38, delta 2", "alpha 60"]
    assert table["unseen_found"].tolist() == table["tpr_at_5_fpr"].tolist() == [0.75, 0.25]
    assert report.picture().startswith(b"\x89PNG")


def test_too_few_types_are_refused(cells: AnnData) -> None:
    two = cells[cells.obs["cell_type"].isin(["beta", "ductal"])].copy()
    with pytest.raises(LabelsError, match="None of 2 types"):
        leave_one_type_out(two, "cell_type")
    with pytest.raises(LabelsError, match="no type .hepatocyte. with enough cells; it has acinar"):
        leave_one_type_out(cells, "cell_type", types=["hepatocyte"])


@pytest.mark.usefixtures("brief")
def test_training_and_query_read_the_same_layer_and_whole_donors(cells: AnnData) -> None:
    adata = cells.copy()
    adata.layers["counts"] = cells.X
    adata.X = cells.X * 0  # only the layer holds counts
    (row,) = leave_one_type_out(
        adata, "cell_type", types=["beta"], options=TrainOptions(layer="counts", batch_key="batch")
    ).rows
    of_batch = [(adata.obs["cell_type"] == "beta") & (adata.obs["batch"] == name) for name in ("one", "two")]
    assert row.unseen_cells in [int(mask.sum()) for mask in of_batch]
    assert row.auroc > 0.8

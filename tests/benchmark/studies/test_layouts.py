"""Files of all layouts hold the same cells, and no two of these cells are equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells.reading import read_cells
from spikgpt_benchmark.studies.layouts import LAYOUTS, distinct_cells, layout_records, read_file
from spikgpt_benchmark.studies.suite import StudyContext


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return distinct_cells(120)


def test_cells_are_distinct_and_the_same_each_time(cells: AnnData) -> None:
    assert len(np.unique(cells.X.toarray(), axis=0)) == 120
    assert (distinct_cells(120).X != cells.X).nnz == 0


@pytest.mark.parametrize(("ending", "name"), LAYOUTS, ids=lambda text: text)
def test_each_layout_holds_the_cells(ending: str, name: str, cells: AnnData, tmp_path: Path) -> None:
    path = tmp_path / f"cells{ending}"
    LAYOUTS[ending, name](cells, path)
    stored = read_cells(path).X
    np.testing.assert_array_equal(stored if "dense" in name else stored.toarray(), cells.X.toarray())
    record = read_file(path)
    assert record["peak MB"] >= record["MB before"]
    assert record["values"] > 0


@pytest.mark.slow
def test_the_suite_measures_each_layout_in_a_process_of_its_own(tmp_path: Path) -> None:
    context = StudyContext(tmp_path, tmp_path, tasks=("CSR", "CSC"), sizes=(300,))
    records = list(layout_records(context))
    assert [record["layout"] for record in records] == [".h5ad CSR", ".h5ad CSC"]
    assert records[0]["values"] == records[1]["values"]
    assert list(tmp_path.iterdir()) == []

"""A small benchmark task of real cells, and the import path for subprocesses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from anndata import AnnData

from spikgpt_benchmark.task import BenchmarkTask
from tests.cli.conftest import run  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def task(cells: AnnData, few: AnnData) -> BenchmarkTask:
    """Return a benchmark task on islet cells; the reference lacks the alpha cells that the query has."""
    kept = (cells.obs["cell_type"] != "alpha").to_numpy()
    return BenchmarkTask.from_cells(
        "islets without alpha", cells[kept, :2000].copy(), few[:, :2000].copy(), "cell_type"
    )


@pytest.fixture(autouse=True)
def _import_path_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let subprocesses import the packages of this repository and the fake methods."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "benchmarks"))))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import log_normalise
from spikgpt.errors import DataError, GenesError, LabelsError
from spikgpt_benchmark.task import BenchmarkTask


def test_a_method_sees_only_genes_labels_and_batches(cells: AnnData, few: AnnData) -> None:
    marked = few.copy()
    marked.obs["batch"] = "three"
    task = BenchmarkTask.from_cells("islets", cells, marked, "cell_type", "batch")
    assert list(task.reference.obs.columns) == ["batch", "label"]
    assert list(task.query.obs.columns) == ["batch"]
    assert task.query.obs_names.tolist() == [str(number) for number in range(few.n_obs)]
    assert task.batch_key == "batch"
    np.testing.assert_array_equal(task.query.X.toarray(), few.X.toarray())
    assert task.query_values == "counts"


def test_small_types_and_cells_without_label_are_left_out(cells: AnnData, few: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    labels[:10] = "nan"
    labels[10:14] = "rare"
    changed = cells.copy()
    changed.obs["cell_type"] = labels
    task = BenchmarkTask.from_cells("islets", changed, few, "cell_type")
    assert task.reference.n_obs == cells.n_obs - 14
    assert "rare" not in set(task.reference.obs["label"])
    assert task.batch_key is None


def test_each_shared_gene_is_kept_once(cells: AnnData, few: AnnData) -> None:
    part = few[:, ::-2].copy()
    part.var_names = [part.var_names[1], *part.var_names[1:]]
    task = BenchmarkTask.from_cells("islets", cells, part, "cell_type")
    assert task.reference.var_names.tolist() == task.query.var_names.tolist()
    assert task.reference.n_vars == part.n_vars - 1
    strange = few.copy()
    strange.var_names = [f"gene {number}" for number in range(few.n_vars)]
    with pytest.raises(GenesError, match="share 0 gene names; at least 50"):
        BenchmarkTask.from_cells("islets", cells, strange, "cell_type")


def test_logarithms_are_accepted_as_a_query_and_not_as_a_reference(cells: AnnData, few: AnnData) -> None:
    values = sparse.csr_matrix(few.X)
    logs = AnnData(log_normalise(values, np.asarray(values.sum(axis=1)).ravel()), obs=few.obs, var=few.var)
    task = BenchmarkTask.from_cells("islets", cells, logs, "cell_type")
    assert task.query_values == "log"
    assert task.log_base == pytest.approx(np.e)
    with pytest.raises(DataError, match="methods learn from counts"):
        BenchmarkTask.from_cells("islets", logs, few, "cell_type")


def test_known_types_are_those_of_the_reference(task: BenchmarkTask, few: AnnData) -> None:
    alpha = (few.obs["cell_type"] == "alpha").to_numpy()
    assert not task.known[alpha].any()
    only = task.with_known_types()
    assert only.known.all()
    assert only.query.n_obs == len(only.truth) == task.known.sum()


def test_the_digest_is_that_of_the_cells(task: BenchmarkTask, cells: AnnData, few: AnnData) -> None:
    kept = (cells.obs["cell_type"] != "alpha").to_numpy()
    again = BenchmarkTask.from_cells("another name", cells[kept, :2000].copy(), few[:, :2000].copy(), "cell_type")
    assert again.digest == task.digest
    truth = few.obs["cell_type"].astype(str).to_numpy()
    truth[0] = "delta" if truth[0] != "delta" else "beta"
    changed = few[:, :2000].copy()
    changed.obs["cell_type"] = pd.Categorical(truth)
    assert BenchmarkTask.from_cells("islets", cells[kept, :2000].copy(), changed, "cell_type").digest != task.digest


def test_files_are_read_and_a_missing_column_is_named(cells: AnnData, few: AnnData, tmp_path: Path) -> None:
    paths = tmp_path / "reference.h5ad", tmp_path / "islets.h5ad"
    for adata, path in zip((cells, few), paths, strict=True):
        adata[:, :500].write_h5ad(path)
    assert BenchmarkTask.from_files(*paths, "cell_type").name == "islets"
    with pytest.raises(LabelsError, match="no column 'batch'"):
        BenchmarkTask.from_files(*paths, "cell_type", "batch")

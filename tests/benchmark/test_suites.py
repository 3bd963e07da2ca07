from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.errors import DataError
from spikgpt_benchmark.studies.datasets import UNSEEN
from spikgpt_benchmark.suites import load_suite


def simulated_cells(
    types: dict[str, int], genes: int, donors: tuple[str, ...] = ("one",), *, logs: bool = False
) -> AnnData:
    """Simulate ``types[name]`` cells of each type, with donors in turn: counts, or logarithms if ``logs``."""
    random = np.random.default_rng(len(types) + genes)
    labels = np.repeat(list(types), list(types.values()))
    values = random.poisson(1.5, (len(labels), genes)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": labels, "donor": np.resize(donors, len(labels))})
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=[f"GENE{number}" for number in range(genes)])
    return AnnData(sparse.csr_matrix(np.log1p(values * 1.7) if logs else values), obs=obs, var=var)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write simulated cells under the file names of the real studies; return the folder."""
    blood = {"Naive CD4 T": 8, "Memory CD4 T": 8, "B": 12, "NK": 3, "Platelet": 6, "Megakaryoblast": 9}
    simulated_cells(blood, 80).write_h5ad(tmp_path / "pbmc_10x_3k.h5ad")
    kang = {"CD4 Naive T": 6, "B": 7, "NK": 5, "Mk": 4, "Eryth": 6}
    simulated_cells(kang, 70).write_h5ad(tmp_path / "pbmc_kang_ifnb.h5ad")
    islets = {"alpha": 16, "beta": 16, "delta": 12, "epsilon": 3}
    donors = ("human1", "human2", "human3", "human4")
    simulated_cells(islets, 90, donors).write_h5ad(tmp_path / "pancreas_baron_human.h5ad")
    xin = simulated_cells({"alpha": 8, "beta": 8}, 60, ("unknown",), logs=True)
    xin.write_h5ad(tmp_path / "pancreas_xin_980genes.h5ad")
    return tmp_path


def test_labels_of_blood_are_joined_and_labels_of_one_study_left_out(data: Path) -> None:
    (task,) = load_suite("pbmc", data)
    assert set(task.reference.obs["label"]) == {"CD4 T", "B", "Mk"}
    assert sorted(task.truth) == ["B"] * 7 + ["CD4 T"] * 6 + ["Mk"] * 4
    assert task.known.all()
    assert (task.reference.n_vars, task.batch_key) == (70, None)


def test_donors_are_kept_apart(data: Path) -> None:
    (task,) = load_suite("baron", data)
    assert set(task.reference.obs["batch"]) == {"human1", "human3"}
    assert set(task.query.obs["batch"]) == {"human2", "human4"}
    assert task.batch_key == "batch"


def test_a_study_may_hold_logarithms_and_no_donors(data: Path) -> None:
    (task,) = load_suite("xin", data)
    assert (task.query_values, task.batch_key, task.reference.n_vars) == ("log", "batch", 60)


def test_one_type_is_missing_from_each_of_the_novelty_tasks(data: Path) -> None:
    tasks = load_suite("novelty", data)
    assert [task.name for task in tasks] == ["pbmc without B", "baron without alpha", "xin without alpha"]
    for task, left_out in zip(tasks, UNSEEN.values(), strict=True):
        assert task.left_out == left_out
        assert set(task.truth[~task.known]) == {left_out}


def test_the_suites_of_the_paper_read_prepared_files(data: Path) -> None:
    with pytest.raises(DataError, match=r"no pancreas_reference.h5ad and no pancreas_query.h5ad .*spikgpt build"):
        load_suite("pancreas", data)
    types = {"alpha": 9, "beta": 9, "delta": 9}
    simulated_cells(types, 60, ("a", "b")).write_h5ad(data / "pancreas_reference.h5ad")
    simulated_cells(types, 60).write_h5ad(data / "pancreas_query.h5ad")
    (task,) = load_suite("pancreas", data)
    assert set(task.truth[~task.known]) == {"alpha"}
    assert (task.paper, task.batch_key) == ("97% of the unseen alpha cells rejected", "batch")


def test_the_suites_of_the_paper_read_the_output_of_a_build(data: Path) -> None:
    folder = data / ".lung.build" / "prepared"
    folder.mkdir(parents=True)
    types = {"AT1": 9, "AT2": 9}
    for name in ("reference", "query-GSE1", "query-GSE2"):
        simulated_cells(types, 60).write_h5ad(folder / f"{name}.h5ad")
    assert [task.name for task in load_suite("lung", data)] == ["lung to GSE1", "lung to GSE2"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pbmc_10x_3k.h5ad"):
        load_suite("pbmc", tmp_path)

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.studies.datasets import LABEL, leave_type_out, rename_types, split_by, subsample
from spikgpt_benchmark.studies.pooled import BATCH, graded_batches, pool_batches, remove_types, split_randomly
from spikgpt_benchmark.studies.scoring import best_open_set_accuracy, open_set_accuracy
from spikgpt_benchmark.studies.shifts import SHIFTS
from spikgpt_benchmark.studies.tasks import StudyTask, gene_panel


def test_a_task_has_the_types_of_the_reference_only(cells: AnnData, few: AnnData) -> None:
    task = StudyTask.from_cells("islets", cells[cells.obs[LABEL] != "alpha"], few)
    assert set(task.query.obs[LABEL]) <= set(task.reference.obs[LABEL])
    assert "alpha" not in set(task.query.obs[LABEL])
    assert all((task.query.obs[LABEL] == name).sum() >= 20 for name in task.types)
    reference, query = leave_type_out(cells, few, "beta")
    assert "beta" not in set(reference.obs[LABEL])
    assert "beta" in set(query.obs[LABEL])


def test_a_panel_is_drawn_from_the_variable_genes(few: AnnData) -> None:
    first, again = gene_panel(few, 50), gene_panel(few, 50)
    assert first.shape == (few.n_obs, 50)
    assert first.var_names.tolist() == again.var_names.tolist()


def test_batches_are_pooled_on_shared_genes(cells: AnnData, few: AnnData) -> None:
    parts = split_randomly(few, [3, 1], 0)
    assert sum(part.n_obs for part in parts) == few.n_obs
    logs = AnnData(sparse.csr_matrix(few.X, dtype=np.float64).log1p(), obs=few.obs, var=few.var)[:, :500].copy()
    task = pool_batches("pooled", cells, {"counts": parts[0], "logs": logs}, largest=None)
    assert set(task.query.obs[BATCH]) == {"counts", "logs"}
    assert task.query.n_vars == 500
    # One batch holds only logarithms, so the values of all batches become logarithms.
    assert task.query.X.max() < 20
    assert subsample(task.query, 10, 0).n_obs == 10
    batches = graded_batches(parts, 0, (0, 0.5))
    assert list(batches) == ["factors of 0", "factors of 0.5"]
    assert batches["factors of 0"] is parts[0]
    assert "beta" not in set(remove_types(few, ["beta"], 0, 0).obs[LABEL])


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_keeps_cells_and_draws_counts(name: str, few: AnnData) -> None:
    changed = SHIFTS[name](few, 1)
    assert changed.shape == few.shape
    assert changed.obs[LABEL].tolist() == few.obs[LABEL].tolist()
    values = sparse.csr_matrix(changed.X).data
    np.testing.assert_array_equal(values, np.round(values))
    assert (sparse.csr_matrix(changed.X) != sparse.csr_matrix(few.X)).nnz == 0 if name == "the same study" else True


def test_cells_are_renamed_and_split(few: AnnData) -> None:
    renamed = rename_types(few, {"beta": "B", "alpha": "A"})
    assert set(renamed.obs[LABEL]) == {"A", "B"}
    assert {name: part.n_obs for name, part in split_by(renamed, LABEL).items()} == {
        "A": int((few.obs[LABEL] == "alpha").sum()),
        "B": int((few.obs[LABEL] == "beta").sum()),
    }


def test_open_set_accuracy_counts_unseen_cells_that_are_unknown() -> None:
    known = np.array([True, True, True, False])
    right = np.array([True, True, False, False])
    assert open_set_accuracy(right, known, np.array([False, True, False, True])) == 0.5
    # A cut-off between the third and the fourth cell rejects the unseen cell only.
    assert best_open_set_accuracy(np.array([0.1, 0.2, 0.3, 0.4]), right, known) == 0.75
    # Cells with equal scores are on the same side of the cut-off.
    assert best_open_set_accuracy(np.full(4, 0.1), right, known) == 0.5

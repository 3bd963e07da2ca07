from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.benchmark.methods.answer import Settings
from spikgpt.benchmark.methods.embeddings.pca import run
from spikgpt.benchmark.task import Task


@pytest.mark.parametrize("classifier", ["logistic", "knn"])
def test_real_cells_are_labelled(cells: AnnData, classifier: str) -> None:
    odd = np.arange(cells.n_obs) % 2 == 1
    task = Task.of("halves", cells[~odd].copy(), cells[odd].copy(), "cell_type").of_known_types()
    query = task.query.copy()
    query.X = sparse.csr_matrix(query.X.multiply((np.arange(query.n_obs) > 0)[:, None]), dtype=np.float32)
    answer = run(task.reference, query, Settings(seed=0, label_key="label", options={"classifier": classifier}))
    assert answer.fault(query.n_obs) is None
    assert (answer.labels == task.truth).mean() > 0.9
    assert answer.confidence is not None
    # Of a cell without counts nothing is known.
    assert answer.confidence[0] == pytest.approx(1 / task.reference.obs["label"].nunique())

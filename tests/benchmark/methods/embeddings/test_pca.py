from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.embeddings.pca import fit
from spikgpt_benchmark.methods.result import MethodSettings
from spikgpt_benchmark.task import BenchmarkTask


@pytest.mark.parametrize("classifier", ["logistic", "knn"])
def test_real_cells_are_labelled(cells: AnnData, classifier: str) -> None:
    odd = np.arange(cells.n_obs) % 2 == 1
    task = BenchmarkTask.from_cells("halves", cells[~odd].copy(), cells[odd].copy(), "cell_type").with_known_types()
    query = task.query.copy()
    query.X = sparse.csr_matrix(query.X.multiply((np.arange(query.n_obs) > 0)[:, None]), dtype=np.float32)
    settings = MethodSettings(seed=0, label_key="label", options={"classifier": classifier})
    result = fit(task.reference, settings)(query)
    assert result.fault(query.n_obs) is None
    assert (result.labels == task.truth).mean() > 0.9
    assert result.confidence is not None
    # A cell without counts gets equal probabilities.
    assert result.confidence[0] == pytest.approx(1 / task.reference.obs["label"].nunique())

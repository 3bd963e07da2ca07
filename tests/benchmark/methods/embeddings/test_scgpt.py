from __future__ import annotations

from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Settings
from spikgpt.benchmark.methods.embeddings.scgpt import run
from spikgpt.benchmark.task import Task

CHECKPOINT = Path(__file__).parents[3] / "data" / "scgpt_baron"


def test_real_cells_are_labelled(cells: AnnData) -> None:
    frequent = cells[cells.obs["cell_type"].isin(["beta", "alpha", "delta"])]
    odd = np.arange(frequent.n_obs) % 2 == 1
    task = Task.of("halves", frequent[~odd][:80].copy(), frequent[odd][:40].copy(), "cell_type").of_known_types()
    options = {"classifier": "knn", "scgpt": str(CHECKPOINT)}
    answer = run(task.reference, task.query, Settings(seed=0, label_key="label", options=options))
    assert answer.fault(task.query.n_obs) is None
    assert (answer.labels == task.truth).mean() > 0.8
    assert set(answer.versions) == {"torch", "scGPT checkpoint"}

"""Models fitted to a part of the cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.pca import PCAProjection
from spikgpt.options import TrainOptions
from spikgpt.training.cells import TrainingCells, prepare
from spikgpt.training.classifier import Progress
from spikgpt.training.fit import FittedModel, fit_model
from tests.training.conftest import HELD_ROWS, ONCE, TRAIN_ROWS


def test_a_model_depends_on_its_training_cells_alone(prepared: TrainingCells, fitted: FittedModel) -> None:
    values = prepared.values
    assert isinstance(values, AlignedCells)
    counts = values.values.toarray()
    counts[HELD_ROWS] = counts[HELD_ROWS][:, ::-1]
    other = replace(prepared, values=replace(values, values=sparse.csr_matrix(counts)))
    stages: set[str] = set()
    rows = np.flatnonzero(TRAIN_ROWS)
    again = fit_model(other, rows, "a part", ONCE, TrainOptions(), lambda stage, _: stages.add(stage))
    assert stages == {"a part"}
    assert again.names == fitted.names == tuple(np.unique(prepared.labels).tolist())
    for name, weights in fitted.engine.weights().items():
        np.testing.assert_array_equal(again.engine.weights()[name], weights)
    np.testing.assert_array_equal(again.geometry.centroids, fitted.geometry.centroids)
    embedding = fitted.engine.embedding
    assert isinstance(embedding, PCAProjection)
    assert embedding.label_shares == pytest.approx(1 / 6, abs=0.05)


def test_an_embedding_of_the_user_is_not_augmented(embedded: AnnData) -> None:
    chosen = prepare(embedded, "cell_type", "obsm:X_own", TrainOptions())
    sizes: list[int] = []

    def watched(stage: str, progress: Progress) -> None:
        sizes.append(progress.epochs)

    recipe = replace(ONCE, epochs=1, minimum_steps=0, batch_size=40)
    part = fit_model(chosen, np.arange(80), "held-out", recipe, TrainOptions(), watched)
    assert sizes == [1]
    assert part.engine.embedding.dim == 64
    assert set(part.names) == set(chosen.labels[:80])


@pytest.mark.parametrize(("kind", "copies"), [("counts", 2), ("linear", 1)])
def test_only_counts_are_augmented(prepared: TrainingCells, kind: Any, copies: int) -> None:
    assert isinstance(prepared.values, AlignedCells)
    cells = replace(prepared, values=replace(prepared.values, kind=kind))
    recipe, epochs = replace(ONCE, epochs=1, minimum_steps=2, batch_size=360), []
    fit_model(cells, np.arange(360), "a", recipe, TrainOptions(), lambda _, progress: epochs.append(progress.epochs))
    # Two steps are one epoch of the cells and their augmented copies, or two epochs of the cells alone.
    assert epochs[0] == 2 // copies

"""Cells and models shared by the tests of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.source import ScGPTSource, open_scgpt
from spikgpt.options import TrainOptions
from spikgpt.reference.files import Reference
from spikgpt.training.cells import TrainingCells, prepare
from spikgpt.training.fit import FittedModel, fit_model
from spikgpt.training.recipes import DEFAULT
from tests.conftest import DATA, aligned

# A recipe with few steps, enough to separate most types, and without refit.
ONCE = replace(DEFAULT, minimum_steps=60, refit=False)
TRAIN_ROWS, HELD_ROWS = np.arange(360) % 3 != 0, np.arange(360) % 3 == 0


@pytest.fixture(scope="session")
def scgpt() -> ScGPTSource:
    return open_scgpt(DATA / "scgpt_baron")


@pytest.fixture(scope="session")
def embedded(cells: AnnData, small: Reference) -> AnnData:
    """Return the cells with their embedding by ``small`` in obsm["X_own"]."""
    adata = cells.copy()
    adata.obsm["X_own"] = torch_engine(small).vectors(aligned(small, cells))
    return adata


@pytest.fixture(scope="session")
def prepared(cells: AnnData) -> TrainingCells:
    return prepare(cells, "cell_type", "pca", TrainOptions())


@pytest.fixture(scope="session")
def fitted(prepared: TrainingCells) -> FittedModel:
    """Return a model fitted to two thirds of the cells."""
    return fit_model(prepared, np.flatnonzero(TRAIN_ROWS), "held-out", ONCE, TrainOptions())

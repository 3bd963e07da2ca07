"""Annotated cells to draw, and figures that are closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from tests.pl.simulated import annotated

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def islets() -> AnnData:
    """Return cells of four labels, 30 of which are Unknown, with a map, donors and clusters."""
    adata = annotated(["alpha", "beta", "delta", "gamma"])
    adata.obs["leiden"] = pd.Categorical((np.arange(adata.n_obs) % 3).astype(str))
    return adata

"""Fitted queries that several test files share."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.explain.query import FittedQuery
from spikgpt.reference.files import Reference
from tests.conftest import labelled


@pytest.fixture(scope="session")
def fitted(small: Reference, query: AnnData) -> FittedQuery:
    """Return the fitted query from an annotation of ``query`` by ``small``."""
    fitted_query = labelled(small, query).query
    assert isinstance(fitted_query, FittedQuery)
    return fitted_query


@pytest.fixture(scope="session")
def panel(small: Reference, query: AnnData) -> FittedQuery:
    """Return the fitted query of the same cells with a third of the genes; the other genes are imputed."""
    kept = np.arange(query.n_vars) % 3 == 0
    kept |= query.var_names.isin(["INS", "GCG"])
    fitted_query = labelled(small, query[:, kept].copy()).query
    assert isinstance(fitted_query, FittedQuery)
    return fitted_query

"""Few cells, laid out as studies publish them."""

from __future__ import annotations

import pytest
from anndata import AnnData

from tests.spikgpt_recipes import study_files


@pytest.fixture(scope="package")
def cells() -> AnnData:
    """Return few cells and genes, which tests leave as they are."""
    return study_files.baron()

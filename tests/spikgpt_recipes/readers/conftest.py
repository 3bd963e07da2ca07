"""Small test data: 40 cells and 60 genes, from which tests write files in the layouts of published studies."""

from __future__ import annotations

import pytest
from anndata import AnnData

from tests.spikgpt_recipes import study_files


@pytest.fixture(scope="package")
def cells() -> AnnData:
    """Return 40 cells and 60 genes; tests must not change the cells."""
    return study_files.baron()

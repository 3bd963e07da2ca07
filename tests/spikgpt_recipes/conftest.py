"""A small recipe on real cells in the layout of GEO, and a server of files on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from mirror import pancreas
from spikgpt_recipes import download
from spikgpt_recipes.recipe import FILE
from tests.spikgpt_recipes.file_server import FileServer

RECIPE = """
name: islets
source: Some islet cells
licence: MIT
tissue: pancreas
organism: Homo sapiens
seed: 3
training: TRAINING
left_out: [LEFT_OUT]
cells: {reference: 240, query: 120}
paper: {reference: none, query: none, figures: none}
labels:
  alpha: {id: CL:0000171, term: pancreatic A cell, broad: CL:0008024, broad_term: pancreatic endocrine cell}
  beta: {id: CL:0000169, term: type B pancreatic cell, broad: CL:0008024, broad_term: pancreatic endocrine cell}
  delta: {id: CL:0000173, term: pancreatic D cell, broad: CL:0000164, broad_term: enteroendocrine cell}
  exocrine: {id: CL:0000083, term: epithelial cell of pancreas, broad: CL:0002076, broad_term: endo-epithelial cell}
sources:
  - study: ReferenceStudy
    accession: GSE84133
    role: reference
    page: https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE84133
    citation: Baron et al. 2016
    licence: none
    keep: {donor: [human1, human2]}
    files: &no
    labels: {alpha: alpha, beta: beta, delta: delta, ductal: exocrine, acinar: exocrine, endothelial: null}
  - study: QueryStudy
    accession: GSE84133
    role: query
    page: https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE84133
    citation: Baron et al. 2016
    licence: none
    keep: {donor: [human3]}
    files: &no
    labels: {alpha: alpha, beta: beta, delta: delta, endothelial: null}
    patterns: {'ductal|acinar': exocrine}
"""
FILES = r"""
      - name: GSE84133_RAW.tar
        url: https://example.org/GSE84133/GSE84133_RAW.tar
        reader:
          format: tar
          members: 'GSM\d+_(?P<donor>human\d)_umifm_counts\.csv\.gz'
          reader: {format: csv, cells: rows, names: 3, obs: {cell_type: assigned_cluster}}"""


def islets_of(cells: AnnData) -> AnnData:
    """Return the cells of three made-up donors, with the 600 genes that have the most counts."""
    most_counts = np.sort(np.argsort(np.asarray(cells.X.sum(axis=0)).ravel(), kind="stable")[-600:])
    subset = cells[:, most_counts].copy()
    # Each donor gets the same number of cells of each type.
    subset.obs["donor"] = [
        f"human{1 + count % 3}" for count in subset.obs.groupby("cell_type", observed=True).cumcount()
    ]
    return subset


@pytest.fixture(scope="session")
def islets(cells: AnnData) -> AnnData:
    """Return cells of three made-up donors."""
    return islets_of(cells)


@pytest.fixture(scope="session")
def mirror(islets: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the cells of ``islets`` in the layout of GEO; return the folder."""
    folder = tmp_path_factory.mktemp("mirror")
    pancreas(islets, folder)
    return folder


def write_recipe(folder: Path, *, left_out: str = "", training: str = "default") -> Path:
    """Write the small recipe and its card; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = RECIPE.replace(" &no", FILES).replace("LEFT_OUT", left_out).replace("TRAINING", training)
    (folder / FILE).write_text(text)
    (folder / "card.md").write_text("## Intended use\n\nTests.\n")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Start a file server; downloads from the server are retried without waiting."""
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "wait_of", lambda _: 0.0)
    with FileServer() as files:
        yield files

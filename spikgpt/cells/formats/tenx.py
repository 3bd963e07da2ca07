"""Read ``.h5`` files of Cell Ranger and CellBender."""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.formats.notes import with_notes
from spikgpt.cells.formats.streams import CUT_OFF
from spikgpt.cells.matrices import PARTS, check_sparse, stored_matrix
from spikgpt.cells.storage import as_data_errors, open_store
from spikgpt.errors import DataError, listed

HUMAN = re.compile(r"GRCh\d+|hg\d+|human", re.IGNORECASE)
# Arrays that describe genes in files of Cell Ranger 3 and later, and the columns of var that they become.
FEATURES = {"id": "gene_ids", "feature_type": "feature_types", "genome": "genome"}


def is_tenx(file: Any) -> bool:
    """Return True if an open HDF5 file was written by Cell Ranger."""
    return any(True for _ in _groups(file))


def read_tenx(path: Path, name: object) -> AnnData:
    """Read an ``.h5`` file of Cell Ranger, version 2 or later, into memory; messages call it ``name``.

    Raises
    ------
    DataError
        When the file is damaged, or holds several genomes and not exactly one human genome.
    """
    with open_store(path, name=name) as file:
        return tenx_cells(file, name, in_memory=True)


def tenx_cells(file: Any, name: object, *, in_memory: bool) -> AnnData:
    """Return the cells of an open ``.h5`` file of Cell Ranger; ``in_memory`` False leaves the matrix in the file.

    Raises
    ------
    DataError
        When the file is damaged, or holds several genomes and not exactly one human genome.
    """
    notes: list[str] = []
    with as_data_errors(name, remedy=CUT_OFF):
        groups = dict(_groups(file))
        genome = next(iter(groups)) if len(groups) == 1 else _human_genome(list(groups), name, notes)
        group = groups[genome]
        n_genes, n_cells = (int(size) for size in group["shape"][:])
        stored = _CellsByGenes(group, (n_cells, n_genes))
        if in_memory:
            data, indices, starts = (stored[part][:] for part in PARTS)
            matrix = sparse.csr_matrix((data.astype(np.float32), indices, starts), shape=(n_cells, n_genes))
            check_sparse(matrix, f"{name}, X")
        else:
            matrix = stored_matrix(stored, f"{name}, X")
        obs = pd.DataFrame(index=pd.Index(_texts(group["barcodes"]), dtype=object))
        return with_notes(AnnData(matrix, obs=obs, var=_var_of(group)), notes)


class _CellsByGenes:
    """A matrix of a 10x file with the attributes by which anndata recognises a CSR matrix of cells and genes.

    The file has a CSC matrix of genes and cells. Its arrays are also those of a CSR matrix of cells and genes.
    """

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self._group, self.name = group, group.name
        self.attrs = UserDict({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})

    def __getitem__(self, part: str) -> Any:
        return self._group[part]


def _groups(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the group of each matrix in a file; before Cell Ranger 3, each genome has its own matrix."""
    for name, item in file.items():
        if isinstance(item, h5py.Group) and {"barcodes", "data", "indices", "indptr", "shape"} <= set(item):
            yield str(name), item


def _human_genome(genomes: list[str], name: object, notes: list[str]) -> str:
    """Return the only human genome of several, and add a note to ``notes``."""
    human = [genome for genome in genomes if HUMAN.search(genome)]
    if len(human) != 1:
        msg = f"{name} holds the genomes {listed(genomes)}; expected one human genome. Write the one to label as .h5ad."
        raise DataError(msg)
    other_genomes = [genome for genome in genomes if genome != human[0]]
    notes.append(f"The file holds several genomes. {human[0]} was read, {listed(other_genomes)} was left out.")
    return human[0]


def _var_of(group: Any) -> pd.DataFrame:
    """Return ``var`` of a matrix in a 10x file, with symbols as names of the genes."""
    if "features" in group:
        features = group["features"]
        names = _texts(features["name"])
        columns = {column: _texts(features[key]) for key, column in FEATURES.items() if key in features}
    else:
        names, columns = _texts(group["gene_names"]), {"gene_ids": _texts(group["genes"])}
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def _texts(array: Any) -> list[str]:
    return [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in array[:]]

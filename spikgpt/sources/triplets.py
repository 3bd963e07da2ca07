"""Genes and cells as Cell Ranger writes them: a Matrix Market file, a list of barcodes and one of genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import scipy.io
from scipy import sparse

from spikgpt.cells.formats.mtx import check_header
from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError, listed
from spikgpt.sources.spec import Mtx
from spikgpt.sources.streams import DAMAGED, Item
from spikgpt.sources.tables import Cells

RNA = "Gene Expression"


def read_triplets(item: Item, layout: Mtx, beside: Mapping[str, Item], size: int) -> Iterator[Cells]:
    """Give the cells of a matrix in parts of ``size``, without empty ones; a matrix is in memory as a whole, sparse.

    Parameters
    ----------
    beside
        The files among which the lists are, by name.

    Raises
    ------
    DataError
        When a list is missing, or something is damaged or does not fit together.
    """
    plain = item.name.removesuffix(".gz")
    if not plain.endswith(layout.matrix.removesuffix(".gz")):
        msg = f"{item.title} does not end with {layout.matrix}; name the ending of the matrix in the recipe."
        raise DataError(msg)
    begin = plain.removesuffix(layout.matrix.removesuffix(".gz"))
    barcodes = [fields[0] for fields in _list(begin + layout.barcodes, item, beside)]
    features = _list(begin + layout.features, item, beside)
    with item.open() as stream:
        with refusing(item.title, why=DAMAGED):
            check_header(stream, item.size, item.title)
            stream.seek(0)
            matrix = scipy.io.mmread(stream)
        if matrix.shape != (len(features), len(barcodes)):
            found = f"{matrix.shape[0]} genes and {matrix.shape[1]} cells"
            lists = f"{len(features)} and {len(barcodes)}"
            msg = f"{item.title} has {found}, and the lists beside it have {lists}. Are they of one sample?"
            raise DataError(msg)
    by_cell = sparse.csr_matrix(matrix.T, dtype=np.float32)
    del matrix
    fits = (by_cell.data >= 0) & (by_cell.data < np.inf)
    fits &= (by_cell.data == np.rint(by_cell.data)) | (layout.values != "counts")
    if not fits.all():
        msg = f"{item.title} holds {by_cell.data[~fits][0]:g}; expected {layout.values}. Check the recipe's values."
        raise DataError(msg)
    # Proteins and guides are no part of a cell's RNA.
    types = np.array([fields[2] if len(fields) > 2 else RNA for fields in features])
    if (types == RNA).any() and not (types == RNA).all():
        by_cell, features = by_cell[:, types == RNA], [fields for fields in features if fields[2:3] in ([], [RNA])]
    genes = pd.DataFrame(index=[fields[0] for fields in features])
    if all(len(fields) > 1 for fields in features):
        genes["gene_symbol"] = [fields[1] for fields in features]
    # Raw matrices list every barcode there is.
    filled = np.flatnonzero(np.diff(by_cell.indptr))
    for start in range(0, len(filled), size):
        part = filled[start : start + size]
        yield Cells([barcodes[place] for place in part], genes, {}, by_cell[part])


def _list(name: str, item: Item, beside: Mapping[str, Item]) -> list[list[str]]:
    """Return the lines of a list beside a matrix, split at tabs."""
    plain = name.removesuffix(".gz")
    found = beside.get(plain, beside.get(f"{plain}.gz"))
    if found is None:
        near = sorted(other for other in beside if other.startswith(plain[: plain.rfind("_") + 1]))[:10]
        msg = f"{plain} is not beside {item.title}; there is {listed(near)}. Check the recipe's barcodes and features."
        raise DataError(msg)
    return [line.decode(errors="replace").split("\t") for _, line in found.lines()]

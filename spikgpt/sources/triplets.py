"""Genes and cells as Cell Ranger writes them: a Matrix Market file, a list of barcodes and one of genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO

import numpy as np
import pandas as pd
from scipy import sparse

from spikgpt.cells.formats.mtx import check_header
from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError, listed
from spikgpt.sources.spec import Mtx
from spikgpt.sources.streams import DAMAGED, Item
from spikgpt.sources.tables import Cells

RNA = "Gene Expression"
# Lines of comments before the header of a matrix, at most.
MOST_COMMENTS = 10_000
# Bytes of a line of a matrix or a list, and fields of one, at most.
LONGEST_LINE, MOST_FIELDS = 64 * 1024, 8
# Values that a matrix may state in any case, and per byte of its file, packed or not.
ALWAYS_ALLOWED, VALUES_PER_BYTE = 1024 * 1024, 2


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
    # Imported here: only this format needs it.
    from scipy.io import mmread

    plain = item.name.removesuffix(".gz")
    if not plain.endswith(layout.matrix.removesuffix(".gz")):
        msg = f"{item.title} does not end with {layout.matrix}; name the ending of the matrix in the recipe."
        raise DataError(msg)
    begin = plain.removesuffix(layout.matrix.removesuffix(".gz"))
    lists = [_beside(begin + name, item, beside) for name in (layout.features, layout.barcodes)]
    with item.open(longest_line=LONGEST_LINE) as stream:
        with refusing(item.title, why=DAMAGED):
            rows, columns = _check_header(item)
            matrix = mmread(_Reader(stream))
        features, barcodes = (_rows(found, most) for found, most in zip(lists, (rows, columns), strict=True))
        if matrix.shape != (len(features), len(barcodes)):
            found = f"{matrix.shape[0]} genes and {matrix.shape[1]} cells"
            msg = (
                f"{item.title} has {found}; its lists have {len(features)} and {len(barcodes)}. Are they of one sample?"
            )
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
        yield Cells([barcodes[place][0] for place in part], genes, {}, by_cell[part])


class _Reader:
    """A stream that can only be read: SciPy seeks in others even after they are closed, and ends the process."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = stream.read


def _check_header(item: Item) -> tuple[int, int]:
    """Return the numbers of genes and cells that a matrix states, and refuse more values than it can hold."""
    with item.open(longest_line=LONGEST_LINE) as stream:
        check_header(islice(stream, MOST_COMMENTS), item.size, item.title)
    with item.open(longest_line=LONGEST_LINE) as stream:
        rows, columns, values = map(int, next(line.split() for line in stream if not line.startswith(b"%")))
    if values > ALWAYS_ALLOWED + VALUES_PER_BYTE * item.size or min(rows, columns, values) < 0:
        msg = f"it has {item.size} bytes and states {values} values"
        raise ValueError(msg)
    return rows, columns


def _beside(name: str, item: Item, beside: Mapping[str, Item]) -> Item:
    """Return a list beside a matrix."""
    plain = name.removesuffix(".gz")
    found = beside.get(plain, beside.get(f"{plain}.gz"))
    if found is None:
        near = sorted(other for other in beside if other.startswith(plain[: plain.rfind("_") + 1]))[:10]
        msg = f"{plain} is not beside {item.title}; there is {listed(near)}. Check the recipe's barcodes and features."
        raise DataError(msg)
    return found


def _rows(item: Item, most: int) -> list[list[str]]:
    """Return the lines of a list, split at tabs; one more than ``most`` at most."""
    if most > ALWAYS_ALLOWED + VALUES_PER_BYTE * item.size:
        msg = f"The matrix beside {item.title} states {most} genes or cells, more than a list of its size can name."
        raise DataError(msg)
    lines = islice(item.lines(LONGEST_LINE), most + 1)
    return [line.decode(errors="replace").split("\t", MOST_FIELDS) for _, line in lines]

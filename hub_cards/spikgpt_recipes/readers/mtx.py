"""Read the output of Cell Ranger: a Matrix Market file, a list of barcodes and a list of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import sparse

from spikgpt.cells.storage import as_data_errors, most_bytes
from spikgpt.errors import DataError, listed, with_noun
from spikgpt_recipes.layouts import Mtx
from spikgpt_recipes.readers.bounded import DAMAGED, BoundedFile
from spikgpt_recipes.readers.text_table import CellChunk

RNA = "Gene Expression"
# Limits: comment lines before the header of a matrix, bytes of a line, and fields of a line in a list.
MOST_COMMENTS, LONGEST_LINE, MOST_FIELDS = 10_000, 64 * 1024, 8
# Largest number of values: allowed for any matrix, plus for each byte of its file, packed or not.
ALWAYS_ALLOWED, VALUES_PER_BYTE = 1024 * 1024, 2


def read_mtx(file: BoundedFile, layout: Mtx, beside: Mapping[str, BoundedFile], size: int) -> Iterator[CellChunk]:
    """Yield the nonempty cells of a matrix in chunks of ``size`` cells. Memory holds the whole matrix, sparse.

    Parameters
    ----------
    beside
        Files of the same archive or study by name, with the lists of barcodes and features.

    Raises
    ------
    DataError
        When a list is missing, a file is damaged, or the lists do not fit the matrix.
    """
    # Imported here: only this format needs it.
    from scipy.io import mmread

    suffix = layout.matrix.removesuffix(".gz")
    plain = file.name.removesuffix(".gz")
    if not plain.endswith(suffix):
        msg = f"{file.title} does not end with {layout.matrix}; name the ending of the matrix in the recipe."
        raise DataError(msg)
    lists = [
        _list_beside(plain.removesuffix(suffix) + name, file, beside) for name in (layout.features, layout.barcodes)
    ]
    most = ALWAYS_ALLOWED + VALUES_PER_BYTE * file.size
    rows, columns = _stated_shape(file, most)
    with file.open(longest_line=LONGEST_LINE) as stream, as_data_errors(file.title, remedy=DAMAGED):
        # Pass only ``read``: SciPy seeks in a stream that can seek, even after it is closed, and crashes the process.
        matrix = mmread(SimpleNamespace(read=stream.read))
    features, barcodes = (_read_list(names, length) for names, length in zip(lists, (rows, columns), strict=True))
    if matrix.shape != (len(features), len(barcodes)):
        msg = (
            f"{file.title} has {with_noun(matrix.shape[0], 'gene')} and {with_noun(matrix.shape[1], 'cell')}; "
            f"its lists have {len(features)} and "
            f"{with_noun(len(barcodes), 'line')}. Use the lists of the same sample."
        )
        raise DataError(msg)
    counts = sparse.csr_matrix(matrix.T, dtype=np.float32)
    del matrix
    _check_values(counts, layout, file)
    # Leave out features that are not RNA: proteins and guides.
    is_rna = np.array([fields[2:3] in ([], [RNA]) for fields in features], dtype=bool)
    if is_rna.any() and not is_rna.all():
        counts, features = counts[:, is_rna], [fields for fields, rna in zip(features, is_rna, strict=True) if rna]
    genes = pd.DataFrame(index=[fields[0] for fields in features])
    if all(len(fields) > 1 for fields in features):
        genes["gene_symbol"] = [fields[1] for fields in features]
    # Leave out empty cells: raw matrices list every possible barcode.
    filled = np.flatnonzero(np.diff(counts.indptr))
    for start in range(0, len(filled), size):
        chunk = filled[start : start + size]
        yield CellChunk([barcodes[cell][0] for cell in chunk], genes, {}, counts[chunk])


def _stated_shape(file: BoundedFile, most: int) -> tuple[int, int]:
    """Return the numbers of genes and cells in the header of a matrix, before memory is reserved for values."""
    with file.open(longest_line=LONGEST_LINE) as stream, as_data_errors(file.title, remedy=DAMAGED):
        lines = (line for line in islice(stream, MOST_COMMENTS) if not line.startswith(b"%"))
        stated = next(lines, b"").split()
    numbers = [int(word) for word in stated if word.isdigit() and len(word) < 19]
    if len(stated) != 3 or len(numbers) != 3 or numbers[2] > most or 8 * max(numbers) > most_bytes(file.size):
        words = b" ".join(stated)[:60].decode(errors="replace")
        msg = f"{file.title} has {file.size} bytes and states {words!r}; expected genes, cells and values. {DAMAGED}"
        raise DataError(msg)
    return numbers[0], numbers[1]


def _check_values(values: sparse.csr_matrix, layout: Mtx, file: BoundedFile) -> None:
    valid = (values.data >= 0) & (values.data < np.inf)
    valid &= (values.data == np.rint(values.data)) | (layout.values != "counts")
    if not valid.all():
        msg = f"{file.title} holds {values.data[~valid][0]:g}; expected {layout.values}. Check the recipe's values."
        raise DataError(msg)


def _list_beside(name: str, file: BoundedFile, beside: Mapping[str, BoundedFile]) -> BoundedFile:
    plain = name.removesuffix(".gz")
    for candidate in (plain, f"{plain}.gz"):
        if candidate in beside:
            return beside[candidate]
    near = sorted(other for other in beside if other.startswith(plain[: plain.rfind("_") + 1]))[:10]
    msg = f"{plain} is not beside {file.title}; there is {listed(near)}. Check the recipe's barcodes and features."
    raise DataError(msg)


def _read_list(file: BoundedFile, length: int) -> list[list[str]]:
    """Return the fields of at most ``length`` + 1 lines of a list."""
    if length > ALWAYS_ALLOWED + VALUES_PER_BYTE * file.size:
        msg = (
            f"The matrix beside {file.title} states {with_noun(length, 'name')}, too many for a list of "
            f"{file.size} bytes. {DAMAGED}"
        )
        raise DataError(msg)
    lines = islice(file.lines(LONGEST_LINE), length + 1)
    return [line.decode(errors="replace").split("\t", MOST_FIELDS) for _, line in lines]

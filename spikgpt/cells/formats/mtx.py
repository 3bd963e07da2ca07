"""A Matrix Market file with a list of cells and a list of genes beside it.

Cell Ranger, STARsolo, kallisto and alevin-fry write such sets, and GEO holds many of them in one folder. Names and
orientation differ between programs: the lists are found by name, and the orientation by their lengths.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.formats.notes import with_notes
from spikgpt.cells.formats.streams import CUT_OFF, is_gzip, open_unpacked, text_lines
from spikgpt.cells.storage import most_bytes, refusing
from spikgpt.errors import DataError, listed

SUFFIX = re.compile(r"\.mtx(\.gz)?$", re.IGNORECASE)
LIST_SUFFIX = re.compile(r"\.(tsv|txt|csv)(\.gz)?$", re.IGNORECASE)
# Words of file names that say what a list or a matrix holds; other words tell samples apart.
CELL_WORDS = {"barcodes", "barcode", "cells", "cell", "cellnames", "cellids", "rows", "colnames"}
GENE_WORDS = {"features", "feature", "genes", "gene", "genenames", "geneids", "cols", "rownames"}
OTHER_WORDS = {"metadata", "meta", "annotation", "annotations", "clusters", "celltypes", "celltype", "summary"}
MATRIX_WORDS = {"matrix", "counts", "count", "umi", "umis", "mat", "expression", "sparse", "mtx"}
NAME_WORDS = {"names", "name", "ids", "id", "list"}
# Folders below the one that is given, and entries in them, that are looked at.
DEEPEST, MOST_ENTRIES = 5, 20_000
# Results of STARsolo that are no counts of genes.
NO_COUNTS = {"velocyto", "sj", "analysis", "transcript3p"}
# Bytes of an entry in text at most, the least that it takes, and entries that a packed byte may hold.
ENTRY_BYTES, LEAST_ENTRY_BYTES, PACKED_ENTRIES = 128, 6, 16
# Entries that a packed file may hold in any case.
ALWAYS_ENTRIES = 4_000_000
LISTS = "barcodes.tsv and features.tsv (or genes.tsv), with or without .gz"
RNA = "Gene Expression"


@dataclass(frozen=True)
class MatrixSet:
    """A matrix and the lists that may belong to it, the likeliest first; ``symbols`` holds kallisto's gene names."""

    matrix: Path
    cells: tuple[Path, ...]
    genes: tuple[Path, ...]
    symbols: tuple[Path, ...] = ()


def read_mtx(path: Path) -> AnnData:
    """Read the matrix at ``path``, a file or a folder, with the lists beside it.

    Raises
    ------
    DataError
        When lists are missing or do not fit the matrix, or there are several matrices to choose from.
    """
    notes: list[str] = []
    if path.is_dir():
        matrix = _chosen(path, _matrices(path))
        if matrix.parent != path:
            notes.append(f"The cells were read from {matrix.relative_to(path)}.")
    else:
        matrix = path
    found = _set_of(matrix)
    shape = _shape(matrix)
    cells, genes = _fitting(found, shape)
    adata = _assembled(found, shape, cells, genes, notes)
    return with_notes(adata, notes)


def is_mtx(path: Path) -> bool:
    """Tell whether a file bears the name of a Matrix Market file."""
    return SUFFIX.search(path.name) is not None


def holds_matrix(folder: Path) -> bool:
    """Tell whether a folder, or one in it, holds a Matrix Market file."""
    return next(iter(_matrices(folder)), None) is not None


def check_header(file: Iterable[bytes], size: int, name: object) -> None:
    """Refuse a Matrix Market file that states more than it can hold, before memory for that is reserved."""
    stated = next((line.split() for line in file if not line.startswith(b"%")), [])
    if len(stated) != 3 or 8 * max(map(int, stated)) > most_bytes(size):
        msg = f"{name} has {size} bytes and states {b' '.join(stated).decode()!r}; expected genes, cells and values."
        raise DataError(msg)


# --- finding the files -----------------------------------------------------------------------------------------------


def _matrices(folder: Path) -> Iterator[Path]:
    """Give the matrices in a folder, or, where it has none, in the folders in it."""
    level, seen = [folder], 0
    for _ in range(DEEPEST):
        below, found = [], []
        for one in level:
            for entry in sorted(one.iterdir()):
                seen += 1
                if seen > MOST_ENTRIES:
                    return
                if entry.is_dir():
                    if not entry.is_symlink() and entry.name.lower() not in NO_COUNTS and entry.suffix != ".zarr":
                        below.append(entry)
                elif SUFFIX.search(entry.name):
                    found.append(entry)
        yield from found
        if found and folder in level:
            return
        level = below


def _chosen(folder: Path, matrices: Iterable[Path]) -> Path:
    """Return the matrix to read of those in a folder: filtered ones before raw ones."""
    found = list(matrices)
    named = [path for path in found if re.fullmatch(r"(matrix|cells_x_genes|quants_mat)\.mtx(\.gz)?", path.name)]
    # STARsolo and kallisto put variants of one matrix beside it.
    found = [path for path in found if path in named or not any(path.parent == other.parent for other in named)]
    places = {path: [part.lower() for part in path.relative_to(folder).parts[:-1]] for path in found}
    filtered = [path for path in found if not any("raw" in part or "unfiltered" in part for part in places[path])]
    found = filtered or found
    if len({path.with_name(path.name.removesuffix(".gz")) for path in found}) == 1:
        return found[0]
    names = [str(path.relative_to(folder)) for path in found[:5]]
    rest = f" and {len(found) - 5} more" if len(found) > 5 else ""
    msg = f"{folder} holds {len(found)} matrices: {listed(names)}{rest}. Give the path of one of them."
    raise DataError(msg)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[._\-\s]+", name.lower()) if word]


def _set_of(matrix: Path) -> MatrixSet:
    """Return a matrix with the lists beside it that bear its name, or, where none does, with all lists there."""
    stem = SUFFIX.sub("", matrix.name)
    key = [word for word in _words(stem) if word not in MATRIX_WORDS]
    roles: dict[str, list[tuple[bool, Path]]] = {"cells": [], "genes": [], "symbols": []}
    for path in islice(sorted(matrix.parent.iterdir()), MOST_ENTRIES):
        if not LIST_SUFFIX.search(path.name) or not path.is_file():
            continue
        plain = LIST_SUFFIX.sub("", path.name)
        own = stem.lower() not in ("", "matrix") and plain.lower().startswith(stem.lower())
        words = _words(plain[len(stem) :] if own else plain)
        kinds = {"cells": CELL_WORDS & set(words), "genes": GENE_WORDS & set(words)}
        if not own and "x" in words and kinds["cells"] and kinds["genes"]:  # kallisto's cells_x_genes.genes.txt
            words = words[words.index("x") + 2 :]
            kinds = {"cells": CELL_WORDS & set(words), "genes": GENE_WORDS & set(words)}
        if OTHER_WORDS & set(words) or bool(kinds["cells"]) == bool(kinds["genes"]):
            continue
        role = "cells" if kinds["cells"] else "genes"
        if role == "genes" and {"names"} & set(words) and "x" in _words(plain):
            role = "symbols"
        rest = [word for word in words if word not in CELL_WORDS | GENE_WORDS | NAME_WORDS | MATRIX_WORDS]
        roles[role].append((own or rest == key, path))
    chosen = {
        role: tuple(path for mine, path in lists if mine) or tuple(path for _, path in lists)
        for role, lists in roles.items()
    }
    found = MatrixSet(matrix, chosen["cells"], chosen["genes"], chosen["symbols"])
    if not found.cells or not found.genes:
        missing = [what for what, lists in (("cells", found.cells), ("genes", found.genes)) if not lists]
        msg = f"{matrix} has no list of {' and none of '.join(missing)} beside it; expected {LISTS}."
        raise DataError(msg)
    return found


# --- reading them ----------------------------------------------------------------------------------------------------


def _shape(matrix: Path) -> tuple[int, int, int]:
    """Return rows, columns and entries as a matrix states them, which have to be possible for its size."""
    size, packed = matrix.stat().st_size, is_gzip(matrix)
    with refusing(matrix, why=CUT_OFF), open_unpacked(matrix) as stream:
        first = stream.readline(1024)
        if not first.lower().startswith(b"%%matrixmarket"):
            begin = first[:40].decode(errors="replace").strip()
            msg = f"{matrix} begins with {begin!r}; expected the line %%MatrixMarket of a Matrix Market file."
            raise DataError(msg)
        words = first.decode(errors="replace").lower().split()
        if words[1:3] != ["matrix", "coordinate"] or words[-1] != "general" or words[3] not in ("integer", "real"):
            expected = "matrix coordinate integer (or real) general"
            msg = f"{matrix} is of the kind {' '.join(words[1:])!r}; expected {expected}."
            raise DataError(msg)
        stated = _stated(stream)
    most = max(ALWAYS_ENTRIES, PACKED_ENTRIES * size) if packed else size // LEAST_ENTRY_BYTES + 1
    if len(stated) != 3 or not all(word.isdigit() and len(word) < 19 for word in stated) or int(stated[2]) > most:
        found = b" ".join(stated)[:60].decode(errors="replace")
        msg = (
            f"{matrix} has {size} bytes and states {found!r}; expected the numbers of rows, columns and values. "
            "Copy or download the file again."
        )
        raise DataError(msg)
    rows, columns, entries = map(int, stated)
    return rows, columns, entries


def _stated(stream: IO[bytes]) -> list[bytes]:
    """Return the words of the first line that is no comment."""
    for _ in range(1000):
        line = stream.readline(1 << 16)
        if line.strip() and not line.startswith(b"%"):
            return line.split()
    return []


def _read_list(path: Path, most: int) -> list[list[str]]:
    """Return the fields of the lines of a list; more than ``most`` lines, and a header, are no list of this matrix."""
    delimiter, found = "", list[list[str]]()
    for _, line in text_lines(path):
        if len(found) > most:
            break
        delimiter = delimiter or ("\t" if "\t" in line else "," if "," in line else "\t")
        fields = next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)
        found.append([field.strip() for field in fields])
    # R's write.csv counts the lines in the first column.
    numbered = [str(number) for number in range(1, len(found))]
    if len(found) > 2 and all(len(fields) > 1 for fields in found) and numbered == [f[0] for f in found[1:]]:
        found = [fields[1:] for fields in found]
    return found


def _fitting(
    found: MatrixSet, shape: tuple[int, int, int]
) -> tuple[tuple[bool, list[list[str]]], tuple[bool, list[list[str]]]]:
    """Return the lines of the lists that are as long as a side of the matrix, and whether that side is the rows."""
    lengths: dict[str, int] = {}

    def fitting(paths: tuple[Path, ...], sides: tuple[bool, ...]) -> Iterator[tuple[bool, list[list[str]]]]:
        for path in paths:
            with refusing(path, why=CUT_OFF):
                lines = _read_list(path, max(shape[:2]) + 1)
            lengths[path.name] = len(lines)
            for in_rows in sides:
                size = shape[0] if in_rows else shape[1]
                if len(lines) in (size, size + 1) and size:
                    yield in_rows, lines[len(lines) - size :]

    by_convention = not re.match(r"cells_x_|quants_mat", found.matrix.name)
    genes = list(fitting(found.genes, (by_convention, not by_convention)))
    cells = list(fitting(found.cells, (not by_convention, by_convention)))
    for one in genes:
        for other in cells:
            if one[0] != other[0]:
                return other, one
    lists = listed(f"{name} {length}" for name, length in lengths.items())
    msg = (
        f"{found.matrix} has {shape[0]} rows and {shape[1]} columns; the lists beside it have other numbers of lines: "
        f"{lists}. Put the lists of the same sample beside it."
    )
    raise DataError(msg)


def _assembled(
    found: MatrixSet,
    shape: tuple[int, int, int],
    cells: tuple[bool, list[list[str]]],
    genes: tuple[bool, list[list[str]]],
    notes: list[str],
) -> AnnData:
    """Return the cells of a matrix with the names of its lists."""
    # Imported here: only this format needs it.
    from scipy.io import mmread

    with (
        refusing(found.matrix, why=CUT_OFF),
        open_unpacked(found.matrix, most=(shape[2] + 1000) * ENTRY_BYTES) as stream,
    ):
        matrix = mmread(stream)
    matrix = sparse.csr_matrix(matrix if cells[0] else matrix.T, dtype=np.float32)
    var = _var_of(genes[1])
    for path in found.symbols:
        symbols = [fields[0] for fields in _read_list(path, len(var) + 1)]
        if len(symbols) == len(var):
            var = pd.DataFrame({"gene_ids": var.index.to_numpy()}, index=pd.Index(symbols, dtype=object))
    obs = pd.DataFrame(index=pd.Index([fields[0] for fields in cells[1]], dtype=object))
    matrix, var = _without_splicing(matrix, var, notes)
    return AnnData(matrix, obs=obs, var=var)


def _var_of(lines: list[list[str]]) -> pd.DataFrame:
    """Return genes with the names of the second column, as Cell Ranger writes them, and what else is beside it."""
    columns = list(zip(*lines, strict=True)) if len({len(fields) for fields in lines}) == 1 else [[f[0] for f in lines]]
    if len(columns) == 1:
        return pd.DataFrame(index=pd.Index(columns[0], dtype=object))
    var = pd.DataFrame({"gene_ids": columns[0]}, index=pd.Index(columns[1], dtype=object))
    if len(columns) > 2:
        var["feature_types"] = columns[2]
    return var


def _without_splicing(
    matrix: sparse.csr_matrix, var: pd.DataFrame, notes: list[str]
) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Return one column a gene of alevin-fry's three: spliced and ambiguous counts (-A) added, unspliced (-U) left."""
    names = [str(name) for name in var.index]
    count, rest = divmod(len(names), 3)
    parts = names[:count], names[count : 2 * count], names[2 * count :]
    if rest or not count or any([f"{n}-{s}" for n in parts[0]] != p for s, p in zip("UA", parts[1:], strict=True)):
        return matrix, var
    notes.append("Spliced and ambiguous counts of alevin-fry were added; unspliced counts were left out.")
    return sparse.csr_matrix(matrix[:, :count] + matrix[:, 2 * count :]), var.iloc[:count].copy()

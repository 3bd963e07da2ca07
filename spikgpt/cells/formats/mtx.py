"""Read a Matrix Market file with its list of cells and its list of genes.

Cell Ranger, STARsolo, kallisto, alevin-fry and Parse Biosciences write a set of these three files. A folder from GEO
may hold many sets. File names and orientation differ between programs. The lists are recognised by their names, and the
orientation by the lengths of the lists.
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
from spikgpt.cells.storage import as_data_errors
from spikgpt.errors import DataError, listed, with_noun

SUFFIX = re.compile(r"\.mtx(\.gz)?$", re.IGNORECASE)
LIST_SUFFIX = re.compile(r"\.(tsv|txt|csv)(\.gz)?$", re.IGNORECASE)
# Words in the file names of lists and matrices; other words are taken for the name of a sample.
CELL_WORDS = {"barcodes", "barcode", "cells", "cell", "cellnames", "cellids", "rows", "colnames"}
GENE_WORDS = {"features", "feature", "genes", "gene", "genenames", "geneids", "cols", "rownames"}
OTHER_WORDS = {"metadata", "meta", "annotation", "annotations", "clusters", "celltypes", "celltype", "summary"}
MATRIX_WORDS = {"matrix", "counts", "count", "umi", "umis", "mat", "expression", "sparse", "mtx"}
# Parse Biosciences names the cells in cell_metadata.csv, in the order of the matrix.
PARSE_CELLS = ["cell", "metadata"]
NAME_WORDS = {"names", "name", "ids", "id", "list"}
# Largest depth of folders, and largest number of files and folders, in the search for a matrix.
DEEPEST, MOST_ENTRIES = 5, 20_000
# Folders of STARsolo without gene counts.
NO_COUNTS = {"velocyto", "sj", "analysis", "transcript3p"}
# Largest and smallest size in bytes of a matrix entry as text. Largest number of entries per byte of a gzip file.
ENTRY_BYTES, LEAST_ENTRY_BYTES, PACKED_ENTRIES = 128, 6, 16
# Number of entries that any gzip file may declare.
ALWAYS_ENTRIES = 4_000_000
LISTS = "barcodes.tsv and features.tsv (or genes.tsv), with or without .gz"


@dataclass(frozen=True)
class MatrixSet:
    """A matrix file, and files that may list its cells and genes; ``symbols`` are kallisto's files of gene names."""

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
    matrix_set = _lists_of(matrix)
    shape = _shape(matrix)
    cells, genes = _match_lists(matrix_set, shape)
    adata = _assemble(matrix_set, shape, cells, genes, notes)
    return with_notes(adata, notes)


def is_mtx(path: Path) -> bool:
    """Return True if the path has the name of a Matrix Market file."""
    return SUFFIX.search(path.name) is not None


def holds_matrix(folder: Path) -> bool:
    """Return True if a folder or its subfolders hold a Matrix Market file."""
    return next(iter(_matrices(folder)), None) is not None


# --- finding the files -----------------------------------------------------------------------------------------------


def _matrices(folder: Path) -> Iterator[Path]:
    """Yield the matrices in a folder, or in its subfolders if it has none."""
    level, seen = [folder], 0
    for _ in range(DEEPEST):
        below, matrices = [], []
        for parent in level:
            for entry in sorted(parent.iterdir()):
                seen += 1
                if seen > MOST_ENTRIES:
                    return
                if entry.is_dir():
                    if not entry.is_symlink() and entry.name.lower() not in NO_COUNTS and entry.suffix != ".zarr":
                        below.append(entry)
                elif SUFFIX.search(entry.name):
                    matrices.append(entry)
        yield from matrices
        if matrices and folder in level:
            return
        level = below


def _chosen(folder: Path, candidates: Iterable[Path]) -> Path:
    """Return the matrix to read in a folder; a filtered matrix is preferred to a raw matrix."""
    matrices = list(candidates)
    named = [path for path in matrices if re.fullmatch(r"(matrix|cells_x_genes|quants_mat)\.mtx(\.gz)?", path.name)]
    # STARsolo and kallisto write variants of one matrix into the same folder.
    matrices = [path for path in matrices if path in named or not any(path.parent == other.parent for other in named)]
    folders = {path: [part.lower() for part in path.relative_to(folder).parts[:-1]] for path in matrices}
    filtered = [path for path in matrices if not any("raw" in part or "unfiltered" in part for part in folders[path])]
    matrices = filtered or matrices
    if len({path.with_name(path.name.removesuffix(".gz")) for path in matrices}) == 1:
        return matrices[0]
    names = [str(path.relative_to(folder)) for path in matrices[:5]]
    rest = f" and {len(matrices) - 5} more" if len(matrices) > 5 else ""
    msg = f"{folder} holds {len(matrices)} matrices: {listed(names)}{rest}. Give the path of one of them."
    raise DataError(msg)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[._\-\s]+", name.lower()) if word]


def _lists_of(matrix: Path) -> MatrixSet:
    """Return a matrix with the lists of cells and genes of the same name, else with all lists in its folder."""
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
        if words == PARSE_CELLS:
            kinds = {"cells": set(words), "genes": set()}
        elif OTHER_WORDS & set(words) or bool(kinds["cells"]) == bool(kinds["genes"]):
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
    matrix_set = MatrixSet(matrix, chosen["cells"], chosen["genes"], chosen["symbols"])
    if not matrix_set.cells or not matrix_set.genes:
        missing = [kind for kind, lists in (("cells", matrix_set.cells), ("genes", matrix_set.genes)) if not lists]
        msg = f"{matrix} has no list of {' and none of '.join(missing)} beside it; put {LISTS} there."
        raise DataError(msg)
    return matrix_set


# --- reading the files -----------------------------------------------------------------------------------------------


def _shape(matrix: Path) -> tuple[int, int, int]:
    """Return the numbers of rows, columns and entries in the header of a matrix; refuse impossible numbers."""
    size, packed = matrix.stat().st_size, is_gzip(matrix)
    with as_data_errors(matrix, remedy=CUT_OFF), open_unpacked(matrix) as stream:
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
        header = b" ".join(stated)[:60].decode(errors="replace")
        msg = (
            f"{matrix} has {size} bytes and states {header!r}; expected the numbers of rows, columns and values. "
            "Copy or download the file again."
        )
        raise DataError(msg)
    rows, columns, entries = map(int, stated)
    return rows, columns, entries


def _stated(stream: IO[bytes]) -> list[bytes]:
    """Return the words of the first line after the comments; empty if there is no such line."""
    for _ in range(1000):
        line = stream.readline(1 << 16)
        if line.strip() and not line.startswith(b"%"):
            return line.split()
    return []


def _read_list(path: Path, most: int) -> list[list[str]]:
    """Return the fields of each of the first ``most`` + 1 lines of a list of cells or genes."""
    delimiter, lines = "", list[list[str]]()
    for _, line in text_lines(path):
        if len(lines) > most:
            break
        delimiter = delimiter or ("\t" if "\t" in line else "," if "," in line else "\t")
        fields = next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)
        lines.append([field.strip() for field in fields])
    # R's write.csv numbers the lines in the first column.
    numbered = [str(number) for number in range(1, len(lines))]
    if len(lines) > 2 and all(len(fields) > 1 for fields in lines) and numbered == [f[0] for f in lines[1:]]:
        lines = [fields[1:] for fields in lines]
    return lines


def _match_lists(
    matrix_set: MatrixSet, shape: tuple[int, int, int]
) -> tuple[tuple[bool, list[list[str]]], tuple[bool, list[list[str]]]]:
    """Return the lists of cells and of genes that fit the matrix, each with True if its items are the rows."""
    lengths: dict[str, int] = {}

    def lines_of(paths: tuple[Path, ...], sides: tuple[bool, ...]) -> Iterator[tuple[bool, list[list[str]]]]:
        for path in paths:
            with as_data_errors(path, remedy=CUT_OFF):
                lines = _read_list(path, max(shape[:2]) + 1)
            lengths[path.name] = len(lines)
            for in_rows in sides:
                size = shape[0] if in_rows else shape[1]
                if len(lines) in (size, size + 1) and size:
                    yield in_rows, lines[len(lines) - size :]

    by_convention = not re.match(r"cells_x_|quants_mat", matrix_set.matrix.name)
    genes = list(lines_of(matrix_set.genes, (by_convention, not by_convention)))
    cells = list(lines_of(matrix_set.cells, (not by_convention, by_convention)))
    for gene_list in genes:
        for cell_list in cells:
            if gene_list[0] != cell_list[0]:
                return cell_list, gene_list
    lists = listed(f"{name} {length}" for name, length in lengths.items())
    msg = (
        f"{matrix_set.matrix} has {with_noun(shape[0], 'row')} and {with_noun(shape[1], 'column')}; the lists "
        "beside it have other numbers "
        f"of lines: {lists}. Put the lists of the same sample beside it."
    )
    raise DataError(msg)


def _assemble(
    matrix_set: MatrixSet,
    shape: tuple[int, int, int],
    cells: tuple[bool, list[list[str]]],
    genes: tuple[bool, list[list[str]]],
    notes: list[str],
) -> AnnData:
    # A slow import, which only this format needs.
    from scipy.io import mmread

    with (
        as_data_errors(matrix_set.matrix, remedy=CUT_OFF),
        open_unpacked(matrix_set.matrix, most=(shape[2] + 1000) * ENTRY_BYTES) as stream,
    ):
        matrix = mmread(stream)
    matrix = sparse.csr_matrix(matrix if cells[0] else matrix.T, dtype=np.float32)
    var = _var_of(genes[1])
    for path in matrix_set.symbols:
        symbols = [fields[0] for fields in _read_list(path, len(var) + 1)]
        if len(symbols) == len(var):
            var = pd.DataFrame({"gene_ids": var.index.to_numpy()}, index=pd.Index(symbols, dtype=object))
    obs = pd.DataFrame(index=pd.Index([fields[0] for fields in cells[1]], dtype=object))
    matrix, var = _without_splicing(matrix, var, notes)
    return AnnData(matrix, obs=obs, var=var)


def _var_of(lines: list[list[str]]) -> pd.DataFrame:
    """Return ``var`` from the lines of a gene list: as in Cell Ranger, ids, symbols and feature types.

    A list with a single column, or with lines of different lengths, gives names only.
    """
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
    """Add spliced and ambiguous counts (-A) of alevin-fry, and leave out unspliced counts (-U).

    A matrix without these three groups of genes is returned unchanged.
    """
    names = [str(name) for name in var.index]
    count, rest = divmod(len(names), 3)
    parts = names[:count], names[count : 2 * count], names[2 * count :]
    if rest or not count or any([f"{n}-{s}" for n in parts[0]] != p for s, p in zip("UA", parts[1:], strict=True)):
        return matrix, var
    notes.append("Spliced and ambiguous counts of alevin-fry were added; unspliced counts were left out.")
    return sparse.csr_matrix(matrix[:, :count] + matrix[:, 2 * count :]), var.iloc[:count].copy()

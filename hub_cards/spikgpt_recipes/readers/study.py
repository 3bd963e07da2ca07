"""Read the cells of a study, a few thousand at a time."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.values import linear_values
from spikgpt.cells.expression import find_expression
from spikgpt.cells.reading import open_cells
from spikgpt.errors import DataError, listed
from spikgpt_recipes.layouts import (
    H5,
    CellLayout,
    Csv,
    H5ad,
    Mtx,
    SeriesMatrix,
    StudyAnnotation,
    StudyFile,
    Tar,
    Zip,
    compile_pattern,
)
from spikgpt_recipes.readers.annotations import read_description, read_gene_names
from spikgpt_recipes.readers.archives import copy_bounded, open_archive
from spikgpt_recipes.readers.bounded import BoundedFile, most_unpacked
from spikgpt_recipes.readers.mtx import read_mtx
from spikgpt_recipes.readers.text_table import CellChunk, read_text_table

# Largest number of cells in a chunk.
CHUNK = 4096
# Largest distance of a restored count from a whole number.
LARGEST_ROUNDING = 0.1


def read_study(files: Sequence[StudyFile], paths: Mapping[str, Path]) -> Iterator[AnnData]:
    """Yield the cells of a study in chunks.

    ``X`` is in CSR format, float32, and holds counts or linear values. Chunks of one table share their genes; tables
    may differ in genes. Cells that an annotation lacks are left out.

    Parameters
    ----------
    paths
        Path of each file by its name.

    Raises
    ------
    DataError
        When a file is damaged, has another layout than stated, does not fit the other files, or repeats a cell name.
    """
    opened = {file.name: BoundedFile.from_path(paths[file.name]) for file in files}
    descriptions = {
        file.name: read_description(opened[file.name], file.reader)
        for file in files
        if isinstance(file.reader, StudyAnnotation | SeriesMatrix)
    }
    # Title of the file of each cell, by the hash of the cell name. Hashes need less memory than names.
    title_of_cell = dict[int, str]()
    described, example = 0, ""
    for file in files:
        if not isinstance(file.reader, CellLayout | Tar | Zip):
            continue
        for title, chunk in _read_file(file, paths[file.name], opened):
            for name in chunk.obs_names:
                earlier = title_of_cell.get(hash(name))
                if earlier is not None:
                    _refuse_repeated(name, earlier, title)
                title_of_cell[hash(name)] = title
            example = example or str(chunk.obs_names[0])
            cells = _describe(chunk, list(descriptions.values()))
            if cells.n_obs:
                described += cells.n_obs
                yield cells
    if descriptions and not described:
        names = {file: str(table.index[0]) if len(table) else "no cell" for file, table in descriptions.items()}
        first = "; ".join(f"{file} describes {cell!r}" for file, cell in names.items())
        msg = f"No cell is described: {first}, but the first cell is {example!r}. Match the names by rename."
        raise DataError(msg)


def _refuse_repeated(name: str, earlier: str, title: str) -> NoReturn:
    msg = (
        f"The cell {name!r} is in {earlier} and in {title}; expected unique names in a study. A group called sample in "
        "the recipe's members becomes a prefix of the names."
    )
    raise DataError(msg)


def _describe(chunk: AnnData, descriptions: Sequence[pd.DataFrame]) -> AnnData:
    """Return the cells that every description lists, with the columns of the descriptions in obs."""
    for table in descriptions:
        with _repeated_genes_allowed():
            chunk = chunk[chunk.obs_names.isin(table.index)].copy()
        for column, values in table.loc[chunk.obs_names].items():
            chunk.obs[column] = values.to_numpy()
    return chunk


def _read_file(file: StudyFile, path: Path, opened: Mapping[str, BoundedFile]) -> Iterator[tuple[str, AnnData]]:
    """Yield the chunks of a file, each with the title of its file or archive member."""
    if not isinstance(file.reader, Tar | Zip):
        assert isinstance(file.reader, CellLayout)
        yield from _read_cells(opened[file.name], file.reader, opened, opened)
        return
    with open_archive(path) as members:
        expression = compile_pattern(file.reader.members)
        matches = {name: match for name in members if (match := expression.fullmatch(name))}
        if not matches:
            names = f"{listed(sorted(members)[:5])}{' and others' if len(members) > 5 else ''}"
            msg = f"{path} has no member like {file.reader.members!r}; it has {names}. Check the recipe's members."
            raise DataError(msg)
        for name, match in sorted(matches.items()):
            groups = {key: value or "" for key, value in match.groupdict().items()}
            for title, chunk in _read_cells(members[name], file.reader.reader, members, opened):
                chunk.obs[list(groups)] = list(groups.values())
                if "sample" in groups:
                    chunk.obs_names = f"{groups['sample']}_" + chunk.obs_names
                yield title, chunk


def _read_cells(
    file: BoundedFile, layout: CellLayout, beside: Mapping[str, BoundedFile], opened: Mapping[str, BoundedFile]
) -> Iterator[tuple[str, AnnData]]:
    """Yield the chunks of a file or an archive member with expression values."""
    names: dict[str, str] = {}
    if layout.genes:
        if layout.genes.file not in opened:
            msg = f"{layout.genes.file}, which names the genes of {file.name}, is no file of the study; add it."
            raise DataError(msg)
        names = read_gene_names(opened[layout.genes.file], layout.genes)
    if isinstance(layout, Csv):
        chunks = read_text_table(file, layout, CHUNK)
    elif isinstance(layout, Mtx):
        chunks = read_mtx(file, layout, beside, CHUNK)
    else:
        chunks = _read_hdf5(file, layout)
    original: pd.DataFrame | None = None
    for chunk in chunks:
        if chunk.var is not original:
            original, var = chunk.var, chunk.var.copy()
            genes = [str(gene).partition(layout.cut)[0] if layout.cut else str(gene) for gene in var.index]
            var.index = pd.Index([names.get(gene, gene) for gene in genes], dtype=object)
        yield file.title, _to_adata(chunk, var, layout, file)


def _read_hdf5(file: BoundedFile, layout: H5 | H5ad) -> Iterator[CellChunk]:
    """Yield the chunks of an HDF5 file. Members and gzipped files are copied: the HDF5 library needs a file."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as folder:
        # Use a fixed name: the name in the archive may lead out of the folder.
        path = Path(folder) / f"cells.{layout.__struct_config__.tag}"
        if file.path is not None and not file.is_gzip():
            path = file.path
        else:
            with file.open() as stream, path.open("wb") as target:
                copy_bounded(stream, target, most_unpacked(file.size), file.title)
        with open_cells(path) as cells:
            expression = find_expression(cells, layer=layout.layer if isinstance(layout, H5ad) else None)
            wanted = layout.values.removesuffix("_counts")
            if expression.kind != wanted and (expression.kind, wanted) != ("counts", "linear"):
                msg = (
                    f"{file.title}: {expression.source} holds {expression.kind} values; expected {wanted}. "
                    "Name the layer with these values in the recipe."
                )
                raise DataError(msg)
            columns = layout.obs if isinstance(layout, H5ad) else {}
            for column in columns.values():
                if column not in cells.obs:
                    msg = f"{file.title}: obs has no column {column!r}; it has {listed(cells.obs)}. Check the recipe."
                    raise DataError(msg)
            obs = {name: cells.obs[column].astype(str).to_numpy() for name, column in columns.items()}
            for start in range(0, expression.n_cells, CHUNK):
                rows = slice(start, min(start + CHUNK, expression.n_cells))
                values = expression.linear(rows.start, rows.stop).astype(np.float32)
                part = {name: list(column[rows]) for name, column in obs.items()}
                yield CellChunk(list(cells.obs_names[rows]), expression.var, part, values)


def _to_adata(chunk: CellChunk, var: pd.DataFrame, layout: CellLayout, file: BoundedFile) -> AnnData:
    """Return a chunk as AnnData, with columns of obs that ``name_pattern`` finds in the cell names."""
    obs = pd.DataFrame(chunk.obs, index=pd.Index(chunk.names, dtype=object))
    if layout.name_pattern:
        groups, expression = [], compile_pattern(layout.name_pattern)
        for name in chunk.names:
            match = expression.match(name)
            if match is None:
                msg = f"{file.title} has the cell {name!r}, unlike the recipe's name_pattern {layout.name_pattern!r}."
                raise DataError(msg)
            groups.append(match.groupdict())
        for key in groups[0]:
            obs[key] = [group[key] or "" for group in groups]
    values = chunk.values
    if layout.values in ("log", "log_counts") and isinstance(layout, Csv | Mtx):
        values = linear_values(values, math.e).astype(np.float32)
    if layout.values == "log_counts":
        values = _whole_counts(values, chunk.names, file)
    with _repeated_genes_allowed():
        return AnnData(values, obs=obs, var=var)


def _whole_counts(values: sparse.csr_matrix, names: Sequence[str], file: BoundedFile) -> sparse.csr_matrix:
    """Return counts from values that are proportional to counts; the smallest value of a cell stands for one count."""
    rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    least = np.full(values.shape[0], np.inf, dtype=np.float32)
    np.minimum.at(least, rows, values.data)
    counts = values.data / least[rows]
    whole = np.rint(counts)
    fractional = np.flatnonzero(np.abs(counts - whole) > LARGEST_ROUNDING)
    if len(fractional):
        cell, count = names[rows[fractional[0]]], counts[fractional[0]]
        msg = (
            f"{file.title}: a value of the cell {cell!r} is {count:.3f} times its least value; expected a whole number "
            "for normalised counts. Write values: log in the recipe."
        )
        raise DataError(msg)
    return sparse.csr_matrix((whole, values.indices, values.indptr), shape=values.shape)


@contextmanager
def _repeated_genes_allowed() -> Iterator[None]:
    """Suppress the warning about repeated gene names; later steps add up the values of a gene."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        yield

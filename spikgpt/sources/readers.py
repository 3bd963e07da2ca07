"""The cells of a study, a few thousand at a time, from the files that it published."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from spikgpt.cells.content.values import linear_values
from spikgpt.cells.expression import find_expression
from spikgpt.cells.reading import open_cells
from spikgpt.errors import DataError, listed
from spikgpt.sources.archives import archived, copy
from spikgpt.sources.descriptions import read_annotation, read_genes, read_series_matrix
from spikgpt.sources.spec import (
    H5,
    Annotation,
    CellReader,
    Csv,
    H5ad,
    Mtx,
    Part,
    SeriesMatrix,
    SourceFile,
    Tar,
    Zip,
    compiled,
)
from spikgpt.sources.streams import Item, item_of, most_unpacked
from spikgpt.sources.tables import Cells, read_table
from spikgpt.sources.triplets import read_triplets

# Cells in a part, at most.
CHUNK = 4096
NAME_SAMPLES = "A group called sample in the recipe's members is put before them."


def read(files: Sequence[SourceFile], paths: Mapping[str, Path]) -> Iterator[AnnData]:
    """Give the cells of a study in parts: ``X`` in CSR, float32, counts or linear values, and obs as the files say.

    Parts of one table share their genes; those of several may differ in them. Names of cells are unique in a study.
    Cells that an annotation lacks are left out.

    Parameters
    ----------
    paths
        Where each of the files lies, by name.

    Raises
    ------
    DataError
        When a file is damaged, is laid out otherwise than its reader says, or does not fit the others.
    """
    items = {file.name: item_of(paths[file.name]) for file in files}
    described = {file.name: _description(items[file.name], file.reader) for file in files if _describes(file)}
    seen = _Names()
    kept, example = 0, ""
    for file in files:
        if isinstance(file.reader, Part) or _describes(file):
            continue
        for title, part in _parts(file, paths[file.name], items):
            seen.add(part.obs_names.tolist(), title)
            example = example or str(part.obs_names[0])
            if (cells := _joined(part, list(described.values()))).n_obs:
                kept += cells.n_obs
                yield cells
    if described and not kept:
        names = {name: str(table.index[0]) if len(table) else "nobody" for name, table in described.items()}
        found = "; ".join(f"{name} describes {cell!r}" for name, cell in names.items())
        msg = f"No cell is described: {found}, and the cells are called {example!r}. Bring names together by rename."
        raise DataError(msg)


class _Names:
    """Names that were seen: eight bytes of each, as raw matrices have a million droplets a sample."""

    def __init__(self) -> None:
        self._earlier: dict[str, npt.NDArray[np.int64]] = {}
        self._title, self._now = "", set[int]()

    def add(self, names: list[str], title: str) -> None:
        """Take names of a table, and refuse one that was seen."""
        if title != self._title:
            self._earlier[self._title] = np.sort(np.fromiter(self._now, np.int64, len(self._now)))
            self._title, self._now = title, set()
        keys = [hash(name) for name in names]
        for name, key in zip(names, keys, strict=True):
            if key in self._now:
                self._refuse(name, title, "again")
            self._now.add(key)
        for before, known in self._earlier.items():
            twice = np.flatnonzero(_among(known, keys))
            if len(twice):
                self._refuse(names[twice[0]], before, f"and in {title}")

    def _refuse(self, name: str, title: str, again: str) -> None:
        msg = f"The cell {name!r} is in {title} {again}; names are unique in a study. {NAME_SAMPLES}"
        raise DataError(msg)


def _among(known: npt.NDArray[np.int64], keys: list[int]) -> npt.NDArray[np.bool_]:
    """Tell which keys are among sorted ones, without looking at all of those."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    return np.asarray(known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys)


def _describes(file: SourceFile) -> bool:
    return isinstance(file.reader, Annotation | SeriesMatrix)


def _description(item: Item, layout: object) -> pd.DataFrame:
    if isinstance(layout, Annotation):
        return read_annotation(item, layout)
    assert isinstance(layout, SeriesMatrix)
    return read_series_matrix(item, layout)


def _joined(part: AnnData, described: Sequence[pd.DataFrame]) -> AnnData:
    """Return the cells that every annotation describes, with what these say."""
    for table in described:
        with _genes_may_repeat():
            part = part[part.obs_names.isin(table.index)].copy()
        for column, values in table.loc[part.obs_names].items():
            part.obs[column] = values.to_numpy()
    return part


def _parts(file: SourceFile, path: Path, items: Mapping[str, Item]) -> Iterator[tuple[str, AnnData]]:
    """Give the parts of a file, and what messages call the file or member that they are from."""
    if not isinstance(file.reader, Tar | Zip):
        assert isinstance(file.reader, CellReader)
        yield from _cells(items[file.name], file.reader, items, items)
        return
    with archived(path) as members:
        found = {name: match for name in members if (match := compiled(file.reader.members).fullmatch(name))}
        if not found:
            has = f"{listed(sorted(members)[:5])}{' and others' if len(members) > 5 else ''}"
            msg = f"{path} has no member like {file.reader.members!r}; it has {has}. Check the recipe's members."
            raise DataError(msg)
        for name, match in sorted(found.items()):
            groups = {key: value or "" for key, value in match.groupdict().items()}
            for title, part in _cells(members[name], file.reader.reader, members, items):
                part.obs[list(groups)] = list(groups.values())
                if "sample" in groups:
                    part.obs_names = f"{groups['sample']}_" + part.obs_names
                yield title, part


def _cells(
    item: Item, layout: CellReader, beside: Mapping[str, Item], items: Mapping[str, Item]
) -> Iterator[tuple[str, AnnData]]:
    """Give the parts of a file or a member that holds cells."""
    names: dict[str, str] = {}
    if layout.genes:
        if layout.genes.file not in items:
            msg = f"{layout.genes.file}, which names the genes of {item.name}, is no file of the study; add it as one."
            raise DataError(msg)
        names = read_genes(items[layout.genes.file], layout.genes)
    var: tuple[pd.DataFrame, pd.DataFrame] | None = None
    for cells in _read(item, layout, beside):
        if var is None or var[0] is not cells.var:
            renamed = cells.var.copy()
            short = [str(gene).partition(layout.cut)[0] if layout.cut else str(gene) for gene in renamed.index]
            renamed.index = pd.Index([names.get(gene, gene) for gene in short], dtype=object)
            var = cells.var, renamed
        yield item.title, _adata(cells, var[1], layout, item)


def _read(item: Item, layout: CellReader, beside: Mapping[str, Item]) -> Iterator[Cells]:
    if isinstance(layout, Csv):
        yield from read_table(item, layout, CHUNK)
    elif isinstance(layout, Mtx):
        yield from read_triplets(item, layout, beside, CHUNK)
    else:
        yield from _stored(item, layout)


def _stored(item: Item, layout: H5 | H5ad) -> Iterator[Cells]:
    """Give the cells of an HDF5 file; one in an archive, or packed, is copied, as the library needs a file."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as folder:
        # Not by the name in the archive, which may lead elsewhere.
        path = Path(folder) / f"cells.{layout.__struct_config__.tag}"
        if item.path is not None and not item.packed():
            path = item.path
        else:
            with item.open() as stream, path.open("wb") as target:
                copy(stream, target, most_unpacked(item.size), item.title)
        with open_cells(path) as cells:
            expression = find_expression(cells, layer=layout.layer if isinstance(layout, H5ad) else None)
            if expression.kind != layout.values and (expression.kind, layout.values) != ("counts", "linear"):
                found = f"{expression.source} holds {expression.kind} values"
                msg = f"{item.title}: {found}; the recipe expects {layout.values}. Name the layer that has them."
                raise DataError(msg)
            wanted = layout.obs if isinstance(layout, H5ad) else {}
            for column in wanted.values():
                if column not in cells.obs:
                    msg = f"{item.title}: obs has no column {column!r}; it has {listed(cells.obs)}. Check the recipe."
                    raise DataError(msg)
            described = {name: cells.obs[column].astype(str).to_numpy() for name, column in wanted.items()}
            for start in range(0, expression.n_cells, CHUNK):
                part = slice(start, min(start + CHUNK, expression.n_cells))
                rows = expression.linear(part.start, part.stop).astype(np.float32)
                obs = {name: list(values[part]) for name, values in described.items()}
                yield Cells(list(cells.obs_names[part]), expression.var, obs, rows)


def _adata(cells: Cells, var: pd.DataFrame, layout: CellReader, item: Item) -> AnnData:
    """Return cells as AnnData, with what their names say."""
    obs = pd.DataFrame(cells.obs, index=pd.Index(cells.names, dtype=object))
    if layout.name_pattern:
        matches = [compiled(layout.name_pattern).match(name) for name in cells.names]
        if None in matches:
            name = cells.names[matches.index(None)]
            msg = f"{item.title} has the cell {name!r}, unlike the recipe's name_pattern {layout.name_pattern!r}."
            raise DataError(msg)
        groups = [match.groupdict() for match in matches if match]
        for key in groups[0]:
            obs[key] = [group[key] or "" for group in groups]
    values = cells.values
    if layout.values == "log" and isinstance(layout, Csv | Mtx):
        values = linear_values(values, math.e).astype(np.float32)
    with _genes_may_repeat():
        return AnnData(values, obs=obs, var=var)


@contextmanager
def _genes_may_repeat() -> Iterator[None]:
    """Keep quiet about names of genes that repeat: the values of one gene are added up where they are used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        yield

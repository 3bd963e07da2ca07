"""What a study says of its cells and genes beside their values: annotations, series matrices, tables of genes."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError, listed
from spikgpt.sources.spec import Annotation, GeneTable, SeriesMatrix
from spikgpt.sources.streams import Item

UNLIKE = "Check the recipe's delimiter and skip, and that this is the file that the recipe means."
SAMPLE, CHARACTERISTICS = "!Sample_", "!Sample_characteristics_ch1"


def read_annotation(item: Item, layout: Annotation) -> pd.DataFrame:
    """Return what a table says of cells: a row for each, by name, with the columns that obs shall have.

    Raises
    ------
    DataError
        When it lacks a column, or says two things of one cell.
    """
    with item.open() as stream, refusing(item.title, why=UNLIKE):
        table = pd.read_csv(stream, sep=layout.delimiter, skiprows=layout.skip, dtype=str, keep_default_na=False)
    table = table.iloc[layout.units :]
    # R leaves the title of the names out.
    unnamed = not isinstance(table.index, pd.RangeIndex)
    columns = {name: _column(table, column, item) for name, column in layout.obs.items()}
    cells = _column(table, layout.cell, item) if layout.cell else table.index if unnamed else table.iloc[:, 0]
    return _described(pd.DataFrame(columns).set_axis(pd.Index(cells, dtype=object)), layout.rename, item)


def read_series_matrix(item: Item, layout: SeriesMatrix) -> pd.DataFrame:
    """Return what GEO says of the samples of a series, as :func:`read_annotation` does."""
    titles: list[str] = []
    found: dict[str, list[str]] = {}
    for number, fields in _sample_lines(item):
        if titles and len(fields) != len(titles) + 1:
            raise item.wrong(number, f"has {len(fields) - 1} samples; expected {len(titles)}, as before")
        key, *values = fields
        titles = titles or values
        if key != CHARACTERISTICS:
            found.setdefault(key, values)
            continue
        # Samples may have the same characteristics in different lines.
        for place, value in enumerate(values):
            name, colon, text = value.partition(": ")
            if colon:
                found.setdefault(name, [""] * len(values))[place] = text
    for wanted in (*layout.obs.values(), layout.cell):
        if wanted not in found:
            has = listed(map(repr, found))
            msg = f"{item.title} says nothing of {wanted!r}; it has {has}. Name one of these in the recipe."
            raise DataError(msg)
    table = pd.DataFrame({name: found[wanted] for name, wanted in layout.obs.items()}, index=found[layout.cell])
    return _described(table, layout.rename, item)


def read_genes(item: Item, layout: GeneTable) -> dict[str, str]:
    """Return the names of genes by their ids; an id without a name is left out, and the first name of one counts."""
    with item.open() as stream, refusing(item.title, why=UNLIKE):
        table = pd.read_csv(stream, sep=layout.delimiter, dtype=str, keep_default_na=False)
    pairs = zip(_column(table, layout.id, item), _column(table, layout.name, item), strict=True)
    names: dict[str, str] = {}
    for gene, name in pairs:
        if name:
            names.setdefault(gene, name)
    return names


def _column(table: pd.DataFrame, name: str, item: Item) -> pd.Series[str]:
    if name not in table:
        msg = f"{item.title} has no column {name!r}; it has {listed(map(repr, table.columns))}. {UNLIKE}"
        raise DataError(msg)
    return table[name]


def _described(table: pd.DataFrame, rename: dict[str, str], item: Item) -> pd.DataFrame:
    """Name cells as the other files do, and refuse two descriptions of one."""
    for pattern, instead in rename.items():
        table.index = table.index.str.replace(pattern, instead, regex=True)
    # A table of runs has a line for each run of a cell.
    table = table[~table.assign(name=table.index).duplicated()]
    twice = table.index[table.index.duplicated()]
    if len(twice):
        said = " and as ".join(listed(row) for row in table.loc[twice[0]].to_numpy())
        msg = f"{item.title} describes the cell {twice[0]!r} as {said}; describe each once. Check cell and rename."
        raise DataError(msg)
    return table


def _sample_lines(item: Item) -> Iterator[tuple[int, list[str]]]:
    """Give the lines about samples, and their numbers."""
    for number, line in item.lines():
        if line.startswith(SAMPLE.encode()):
            yield number, item.fields(number, line, "\t")
        elif line.startswith(b"!series_matrix_table_begin"):
            return

"""What a study says of its cells and genes beside their values: annotations, series matrices, tables of genes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

import pandas as pd

from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError, listed
from spikgpt.sources.spec import Annotation, GeneTable, SeriesMatrix, compiled
from spikgpt.sources.streams import Item, most_lines

UNLIKE = "Check the recipe's delimiter and skip, and that this is the file that the recipe means."
# Bytes of a table that describes cells or genes and of a line of it, its rows, and the fields of a line, at most.
LARGEST, LONGEST_LINE, MOST_ROWS, MOST_SAMPLES = 256 * 1024 * 1024, 256 * 1024, 5_000_000, 1_000_000
SAMPLE, CHARACTERISTICS = "!Sample_", "!Sample_characteristics_ch1"


def read_annotation(item: Item, layout: Annotation) -> pd.DataFrame:
    """Return what a table says of cells: a row for each, by name, with the columns that obs shall have.

    Raises
    ------
    DataError
        When it lacks a column, or says two things of one cell.
    """
    table = _table(item, layout.delimiter, layout.skip).iloc[layout.units :]
    # R leaves the title of the names out.
    unnamed = not isinstance(table.index, pd.RangeIndex)
    columns = {name: _column(table, column, item) for name, column in layout.obs.items()}
    cells = _column(table, layout.cell, item) if layout.cell else table.index if unnamed else table.iloc[:, 0]
    return _described(pd.DataFrame(columns).set_axis(pd.Index(cells, dtype=object)), layout.rename, item)


def read_series_matrix(item: Item, layout: SeriesMatrix) -> pd.DataFrame:
    """Return what GEO says of the samples of a series, as :func:`read_annotation` does."""
    titles: list[str] = []
    wanted = {*layout.obs.values(), layout.cell}
    # Of what is not wanted, the names alone are kept.
    found: dict[str, list[str]] = {}
    for number, fields in _sample_lines(item):
        if titles and len(fields) != len(titles) + 1:
            raise item.wrong(number, f"has {len(fields) - 1} samples; expected {len(titles)}, as before")
        key, *values = fields
        titles = titles or values
        if key != CHARACTERISTICS:
            found.setdefault(key, values if key in wanted else [])
            continue
        # Samples may have the same characteristics in different lines.
        for place, value in enumerate(values):
            name, colon, text = value.partition(": ")
            if colon and name in wanted:
                found.setdefault(name, [""] * len(values))[place] = text
            elif colon:
                found.setdefault(name, [])
    for name in (*layout.obs.values(), layout.cell):
        if name not in found:
            has = listed(map(repr, found))
            msg = f"{item.title} says nothing of {name!r}; it has {has}. Name one of these in the recipe."
            raise DataError(msg)
    table = pd.DataFrame({name: found[key] for name, key in layout.obs.items()}, index=found[layout.cell])
    return _described(table, layout.rename, item)


def read_genes(item: Item, layout: GeneTable) -> dict[str, str]:
    """Return the names of genes by their ids; an id without a name is left out, and the first name of one counts."""
    table = _table(item, layout.delimiter)
    pairs = zip(_column(table, layout.id, item), _column(table, layout.name, item), strict=True)
    names: dict[str, str] = {}
    for gene, name in pairs:
        if name:
            names.setdefault(gene, name)
    return names


def _table(item: Item, delimiter: str, skip: int = 0) -> pd.DataFrame:
    """Return a table of text; its index is named where rows begin with a name that the header lacks."""
    with item.open(longest_line=LONGEST_LINE, largest=LARGEST) as stream, refusing(item.title, why=UNLIKE):
        lines = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
        for _ in range(skip):
            lines.readline()
        # Bounds fields, which may hold line ends between quotes.
        most = min(MOST_ROWS, most_lines(item.size))
        reader = csv.reader(lines, delimiter=delimiter)
        # Empty rows count too, as each takes time.
        rows = filter(None, islice(reader, most))
        header = next(rows, [])
        table = list(rows)
        more = next(reader, None) is not None
    if more:
        msg = f"{item.title} has more than {most} rows; expected a row for each cell or gene. {UNLIKE}"
        raise DataError(msg)
    named = bool(table) and len(table[0]) == len(header) + 1
    for row in table:
        if len(row) != len(header) + named:
            shown = ", ".join(row)[:60]
            msg = f"{item.title} has a row of {len(row)} columns, {shown!r}; expected {len(header) + named}. {UNLIKE}"
            raise DataError(msg)
    columns = {name: [row[place] for row in table] for place, name in reversed([*enumerate(header, int(named))])}
    return pd.DataFrame(columns, index=[row[0] for row in table] if named else None, dtype=object)[header]


def _column(table: pd.DataFrame, name: str, item: Item) -> pd.Series[str]:
    if name not in table:
        msg = f"{item.title} has no column {name!r}; it has {listed(map(repr, table.columns))}. {UNLIKE}"
        raise DataError(msg)
    return table[name]


def _described(table: pd.DataFrame, rename: dict[str, str], item: Item) -> pd.DataFrame:
    """Name cells as the other files do, and refuse two descriptions of one."""
    for pattern, instead in rename.items():
        expression = compiled(pattern)
        try:
            table.index = pd.Index([expression.sub(instead, str(name)) for name in table.index], dtype=object)
        except (re.error, IndexError, KeyError):
            msg = f"rename turns {pattern!r} into {instead!r}, which names a group that is not there. Mend the recipe."
            raise DataError(msg) from None
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
        if line.count(b"\t") > MOST_SAMPLES:
            raise item.wrong(number, f"has more than {MOST_SAMPLES} columns; expected one for each sample")
        if line.startswith(SAMPLE.encode()):
            yield number, item.fields(number, line, "\t")
        elif line.startswith(b"!series_matrix_table_begin"):
            return

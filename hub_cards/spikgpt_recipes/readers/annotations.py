"""Read descriptions of cells and genes: annotation tables, series matrices of GEO, and tables of gene names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

import pandas as pd

from spikgpt.cells.storage import as_data_errors
from spikgpt.errors import DataError, listed, with_noun
from spikgpt_recipes.layouts import SeriesMatrix, StudyAnnotation, StudyGeneTable, compile_pattern
from spikgpt_recipes.readers.bounded import BoundedFile, most_lines

CHECK = "Check the delimiter and skip in the recipe, and that the recipe means this file."
# Limits of a text: bytes of a table, bytes of a line, rows of a table, and columns of a series matrix.
LARGEST, LONGEST_LINE, MOST_ROWS, MOST_SAMPLES = 256 * 1024 * 1024, 256 * 1024, 5_000_000, 1_000_000
SAMPLE, CHARACTERISTICS = "!Sample_", "!Sample_characteristics_ch1"


def read_description(file: BoundedFile, layout: StudyAnnotation | SeriesMatrix) -> pd.DataFrame:
    """Return a table with a row for each described cell, by cell name, and the columns of ``layout.obs``.

    Raises
    ------
    DataError
        When the file lacks a column, or describes a cell in two ways.
    """
    table = _read_annotation(file, layout) if isinstance(layout, StudyAnnotation) else _read_series(file, layout)
    for pattern, replacement in layout.rename.items():
        expression = compile_pattern(pattern)
        try:
            table.index = pd.Index([expression.sub(replacement, str(name)) for name in table.index], dtype=object)
        except (re.error, IndexError, KeyError):
            msg = f"rename replaces {pattern!r} by {replacement!r}, which names a missing group. Correct the recipe."
            raise DataError(msg) from None
    # Tables of sequencing runs have a line for each run of a cell; equal lines count once.
    table = table[~table.assign(name=table.index).duplicated()]
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        descriptions = " and as ".join(listed(row) for row in table.loc[repeated[0]].to_numpy())
        msg = f"{file.title} describes the cell {repeated[0]!r} as {descriptions}. Check cell and rename in the recipe."
        raise DataError(msg)
    return table


def read_gene_names(file: BoundedFile, layout: StudyGeneTable) -> dict[str, str]:
    """Return the first name of each gene by its id; ids without a name are left out."""
    table = _read_table(file, layout.delimiter)
    names: dict[str, str] = {}
    for gene, name in zip(_column(table, layout.id, file), _column(table, layout.name, file), strict=True):
        if name:
            names.setdefault(gene, name)
    return names


def _read_annotation(file: BoundedFile, layout: StudyAnnotation) -> pd.DataFrame:
    table = _read_table(file, layout.delimiter, layout.skip).iloc[layout.units :]
    columns = {name: _column(table, column, file) for name, column in layout.obs.items()}
    # R writes no title for the column of row names.
    named = not isinstance(table.index, pd.RangeIndex)
    cells = _column(table, layout.cell, file) if layout.cell else table.index if named else table.iloc[:, 0]
    return pd.DataFrame(columns).set_axis(pd.Index(cells, dtype=object))


def _read_series(file: BoundedFile, layout: SeriesMatrix) -> pd.DataFrame:
    wanted = {*layout.obs.values(), layout.cell}
    samples = 0
    # Values by line or characteristic. Those that the recipe does not read are empty; messages list their names.
    lines: dict[str, list[str]] = {}
    for number, fields in _sample_lines(file):
        key, *values = fields
        if samples and len(values) != samples:
            raise file.line_error(
                number, f"has {with_noun(len(values), 'sample')}; expected {samples}, as in earlier lines"
            )
        samples = samples or len(values)
        if key != CHARACTERISTICS:
            lines.setdefault(key, values if key in wanted else [])
            continue
        # Samples may have the same characteristics in different lines.
        for sample, value in enumerate(values):
            name, colon, text = value.partition(": ")
            if colon and name in wanted:
                lines.setdefault(name, [""] * samples)[sample] = text
            elif colon:
                lines.setdefault(name, [])
    for name in (*layout.obs.values(), layout.cell):
        if name not in lines:
            msg = f"{file.title} has no {name!r}; it has {listed(map(repr, lines))}. Name one of them in the recipe."
            raise DataError(msg)
    return pd.DataFrame({name: lines[key] for name, key in layout.obs.items()}, index=lines[layout.cell])


def _sample_lines(file: BoundedFile) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line about samples."""
    for number, line in file.lines():
        if line.count(b"\t") > MOST_SAMPLES:
            raise file.line_error(number, f"has more than {MOST_SAMPLES} columns; expected one for each sample")
        if line.startswith(SAMPLE.encode()):
            yield number, file.split(number, line, "\t")
        elif line.startswith(b"!series_matrix_table_begin"):
            return


def _read_table(file: BoundedFile, delimiter: str, skip: int = 0) -> pd.DataFrame:
    """Return a text table; a first column without a title in the header becomes the index.

    A row of another length than the header raises an error. pandas would fill short rows with empty text.
    """
    with file.open(longest_line=LONGEST_LINE, largest=LARGEST) as stream, as_data_errors(file.title, remedy=CHECK):
        text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
        for _ in range(skip):
            text.readline()
        # Empty rows count too, because each takes time.
        most = min(MOST_ROWS, most_lines(file.size))
        rows = list(islice(csv.reader(text, delimiter=delimiter), most + 1))
    if len(rows) > most:
        msg = f"{file.title} has more than {most} rows; expected a row for each cell or gene. {CHECK}"
        raise DataError(msg)
    header, *table = filter(None, rows) if any(rows) else [[]]
    named = int(bool(table) and len(table[0]) == len(header) + 1)
    for row in table:
        if len(row) != len(header) + named:
            start = ", ".join(row)[:60]
            msg = (
                f"{file.title} has a row of {with_noun(len(row), 'column')}, {start!r}; expected "
                f"{len(header) + named}. {CHECK}"
            )
            raise DataError(msg)
    index = [row[0] for row in table] if named else None
    frame = pd.DataFrame([row[named:] for row in table], index=index, columns=header, dtype=object)
    # If two columns have the same title, the first is used.
    return frame.loc[:, ~frame.columns.duplicated()]


def _column(table: pd.DataFrame, name: str, file: BoundedFile) -> pd.Series[str]:
    if name not in table:
        msg = f"{file.title} has no column {name!r}; it has {listed(map(repr, table.columns))}. {CHECK}"
        raise DataError(msg)
    return table[name]

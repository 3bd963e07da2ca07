"""Read text tables with a cell or a gene in each row, line by line, into sparse chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from spikgpt.cells.content.values import LARGEST_LOG
from spikgpt.errors import with_noun
from spikgpt_recipes.layouts import Csv
from spikgpt_recipes.readers.bounded import DAMAGED, BoundedFile

MOST_COLUMNS = 2_000_000
# Largest number of nonzero values: allowed for any table, plus for each byte of its file, packed or not.
ALWAYS_ALLOWED, VALUES_PER_BYTE = 16 * 1024 * 1024, 8
# Bytes of text that are parsed at a time.
BATCH = 128 * 1024


@dataclass(frozen=True)
class CellChunk:
    """Some cells of a table; ``values``, shape (n, genes), are float32. All chunks of a table share ``var``."""

    names: list[str]
    var: pd.DataFrame
    obs: dict[str, list[str]]
    values: sparse.csr_matrix


def read_text_table(file: BoundedFile, layout: Csv, size: int) -> Iterator[CellChunk]:
    """Yield the cells of a table in chunks of ``size`` cells.

    With cells in rows, memory holds one chunk. With cells in columns, memory holds the whole table in sparse form.

    Raises
    ------
    DataError
        When the table is damaged or uneven, holds other values than the layout states, or repeats a cell name.
    """
    table = _TextTable(file, layout)
    if layout.cells == "rows":
        yield from table.chunks(size)
        return
    chunks = list(table.chunks(size))
    var = pd.DataFrame(index=[name for chunk in chunks for name in chunk.names])
    by_gene = sparse.vstack([chunk.values for chunk in chunks], format="csr", dtype=np.float32)
    del chunks
    by_cell = by_gene.T.tocsr()
    del by_gene
    for start in range(0, by_cell.shape[0], size):
        cells = slice(start, start + size)
        yield CellChunk(table.titles[cells], var, {}, by_cell[cells])


class _TextTable:
    """Reader of one text table, with its column titles and the state of reading."""

    def __init__(self, file: BoundedFile, layout: Csv) -> None:
        self.file, self.layout = file, layout
        self.delimiter = layout.delimiter.encode()
        # Titles of the columns of values, and the index of each column of obs before the values.
        self.titles: list[str] = []
        self.obs_columns: dict[str, int] = {}
        self.width = 0
        self.values_left = ALWAYS_ALLOWED + VALUES_PER_BYTE * file.size

    def chunks(self, size: int) -> Iterator[CellChunk]:
        """Yield ``size`` rows at a time, each as a cell, even if the rows are genes."""
        names, values = list[list[str]](), list[sparse.csr_matrix]()
        batch, batch_bytes, var = dict[int, bytes](), 0, None
        for number, row_names, text in self._rows():
            names.append(row_names)
            batch[number] = text
            batch_bytes += len(text)
            if len(names) == size or batch_bytes >= BATCH:
                values.append(self._parse(batch))
                batch, batch_bytes = {}, 0
            if len(names) == size:
                var = self._var() if var is None else var
                yield self._chunk(names, var, values)
                names, values = [], []
        if batch:
            values.append(self._parse(batch))
        if names:
            yield self._chunk(names, self._var() if var is None else var, values)

    def _var(self) -> pd.DataFrame:
        return pd.DataFrame(index=self.titles)

    def _chunk(self, names: list[list[str]], var: pd.DataFrame, values: list[sparse.csr_matrix]) -> CellChunk:
        obs = {name: [fields[column] for fields in names] for name, column in self.obs_columns.items()}
        return CellChunk([fields[0] for fields in names], var, obs, sparse.vstack(values, format="csr"))

    def _rows(self) -> Iterator[tuple[int, list[str], bytes]]:
        """Yield the line number, the columns before the values, and the text of the values of each row."""
        lines, line_of_name = self.file.lines(), dict[str, int]()
        number, first = next(lines, (1, b""))
        if first.count(self.delimiter) > MOST_COLUMNS:
            raise self.file.line_error(number, f"has more than {MOST_COLUMNS} columns. Check the delimiter")
        header = self.file.split(number, first, self.layout.delimiter)
        if len(header) < 2:
            start, delimiter = first[:60].decode(errors="replace"), self.layout.delimiter
            raise self.file.line_error(number, f"is {start!r}; expected columns with {delimiter!r} between them")
        for number, line in lines:
            names, text = self._split(number, line)
            if not self.titles:
                self._read_header(header, text, number)
            if (count := text.count(self.delimiter) + 1) != self.width:
                columns, expected = self.layout.names + count, self.layout.names + self.width
                raise self.file.line_error(number, f"has {with_noun(columns, 'column')}; expected {expected}")
            # Names of genes may repeat.
            if self.layout.cells == "rows" and (earlier := line_of_name.setdefault(names[0], number)) != number:
                raise self.file.line_error(number, f"repeats the cell {names[0]!r} of line {earlier}; name each once")
            yield number, names, text
        if not self.titles:
            raise self.file.line_error(number, "is the last one; expected values below the header")

    def _split(self, number: int, line: bytes) -> tuple[list[str], bytes]:
        """Return the columns before the values of a line, and the text of its values."""
        count = self.layout.names
        parts = line.split(self.delimiter, count)
        if any(part.count(b'"') % 2 for part in parts[:count]):  # a quoted name holds a delimiter
            fields = [field.encode() for field in self.file.split(number, line, self.layout.delimiter)]
            parts = fields[:count] + ([self.delimiter.join(fields[count:])] if len(fields) > count else [])
        if len(parts) <= count:
            raise self.file.line_error(
                number, f"has {with_noun(len(parts), 'column')}; expected {with_noun(count, 'name')} and the values"
            )
        return [part.decode(errors="replace").strip('"') for part in parts[:count]], parts[count].replace(b'"', b"")

    def _read_header(self, header: list[str], first_values: bytes, number: int) -> None:
        """Set the width and the titles of the table, by its header and its first row of values."""
        layout = self.layout
        self.width = first_values.count(self.delimiter) + 1
        count, rest = divmod(self.width, layout.blocks)
        titled = len(header) - count
        if rest or not 0 <= titled <= layout.names:
            values = f"{with_noun(self.width, 'value')} in {with_noun(layout.blocks, 'block')}"
            problem = f"holds {values}, and the header has {with_noun(len(header), 'column')}"
            expected = f"as many names as values, and up to {layout.names} before them"
            raise self.file.line_error(number, f"{problem}; expected {expected}. Check names, blocks and delimiter")
        self.titles = header[titled:]
        if layout.cells == "columns" and len(set(self.titles)) < count:
            repeated = next(name for name in self.titles if self.titles.count(name) > 1)
            raise self.file.line_error(1, f"repeats the cell {repeated!r}; name each once")
        for name, column in layout.obs.items():
            if column not in header[:titled]:
                titles = ", ".join(map(repr, header[:titled])) or "none"
                problem = f"has no column {column!r} before the values; it has {titles}. Check obs and names"
                raise self.file.line_error(1, problem)
            self.obs_columns[name] = header.index(column) + layout.names - titled

    def _parse(self, texts: dict[int, bytes]) -> sparse.csr_matrix:
        """Return the values of some lines in sparse form; only fields other than "0" are parsed, as they are few."""
        text, count, block = self.delimiter.join(texts.values()), len(self.titles), self.layout.block
        signs = np.frombuffer(text + b"\n", dtype=np.uint8)
        stops = np.append(np.flatnonzero(signs == ord(self.layout.delimiter)), len(text))
        starts = np.append(0, stops[:-1] + 1)
        columns = slice(block * count, (block + 1) * count)
        starts, stops = (ends.reshape(len(texts), self.width)[:, columns].ravel() for ends in (starts, stops))
        filled = np.flatnonzero((stops - starts != 1) | (signs[starts] != ord("0")))
        self.values_left -= len(filled)
        if self.values_left < 0:
            problem = "holds more values than a file of this size can hold"
            raise self.file.line_error(max(texts), f"{problem}. {DAMAGED[:-1]}")
        words = [text[start:stop] for start, stop in zip(starts[filled].tolist(), stops[filled].tolist(), strict=True)]
        rows, titles = np.divmod(filled, count)
        try:
            numbers = np.array([float(word) for word in words])
        except ValueError:
            numbers = np.full(len(words), np.nan)
        # float() accepts underscores in numbers, which are refused.
        if b"_" in text or not self._valid(numbers).all():
            lines = list(texts)
            self._refuse(words, [lines[row] for row in rows], titles.tolist())
        row_starts = np.searchsorted(rows, np.arange(len(texts) + 1))
        parts = numbers.astype(np.float32), titles.astype(np.int32), row_starts.astype(np.int32)
        values = sparse.csr_matrix(parts, shape=(len(texts), count))
        values.eliminate_zeros()
        return values

    def _valid(self, numbers: np.ndarray) -> np.ndarray:
        """Return whether each number is valid for the layout: a count, a linear value or a logarithm, not negative."""
        valid = (numbers >= 0) & (numbers < np.inf)
        if self.layout.values == "counts":
            valid &= numbers == np.rint(numbers)
        elif self.layout.values != "linear":
            valid &= numbers <= LARGEST_LOG
        return np.asarray(valid)

    def _refuse(self, words: Sequence[bytes], lines: Sequence[int], titles: Sequence[int]) -> None:
        """Raise an error about the first word that is not a valid number; return if there is none."""
        logarithm = f"a logarithm of at most {LARGEST_LOG:g}"
        kinds = {"counts": "a whole number", "linear": "a number", "log": logarithm, "log_counts": logarithm}
        for word, line, title in zip(words, lines, titles, strict=True):
            try:
                number = float(word) if b"_" not in word else np.nan
            except ValueError:
                number = np.nan
            if not self._valid(np.array([number])).all():
                shown, expected = word[:40].decode(errors="replace"), f"{kinds[self.layout.values]}, not negative"
                problem = f"holds {shown!r} for {self.titles[title]!r}; expected {expected}"
                raise self.file.line_error(line, problem)

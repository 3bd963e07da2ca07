"""Tables of text with a cell or a gene in each row, read line by line into sparse parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from spikgpt.cells.content.values import LARGEST_LOG
from spikgpt.sources.spec import Csv
from spikgpt.sources.streams import DAMAGED, Item

# Digits of whole numbers that are read together.
MOST_DIGITS = 7
# Columns of a table, at most.
MOST_COLUMNS = 2_000_000
# Values other than 0 that a table may hold in any case, and per byte of its file, packed or not.
ALWAYS_ALLOWED, VALUES_PER_BYTE = 16 * 1024 * 1024, 8
# Bytes of lines that are read together.
TOGETHER = 128 * 1024


@dataclass(frozen=True)
class _Rows:
    """Some rows of a table: their names, what stands before their values, and the values."""

    names: list[str]
    before: dict[str, list[str]]
    values: sparse.csr_matrix


@dataclass(frozen=True)
class Cells:
    """Some cells of a table, as it has them; ``values``, shape (n, genes), are float32."""

    names: list[str]
    var: pd.DataFrame
    obs: dict[str, list[str]]
    values: sparse.csr_matrix


def read_table(item: Item, layout: Csv, size: int) -> Iterator[Cells]:
    """Give the cells of a table in parts of ``size`` cells.

    Of a table with cells in rows, that many lines are in memory at a time; one with cells in columns is gathered first,
    sparse.

    Raises
    ------
    DataError
        When it is damaged, uneven, holds something else than numbers, or names a cell twice.
    """
    table = _Table(item, layout)
    if layout.cells == "rows":
        var = None
        for rows in table.parts(size):
            var = pd.DataFrame(index=table.columns) if var is None else var
            yield Cells(rows.names, var, rows.before, rows.values)
        return
    parts = list(table.parts(size))
    var = pd.DataFrame(index=[name for rows in parts for name in rows.names])
    by_gene = sparse.vstack([rows.values for rows in parts], format="csr", dtype=np.float32)
    del parts
    whole = by_gene.T.tocsr()
    del by_gene
    for start in range(0, whole.shape[0], size):
        part = slice(start, start + size)
        yield Cells(table.columns[part], var, {}, whole[part])


class _Table:
    """A table that is being read."""

    def __init__(self, item: Item, layout: Csv) -> None:
        self.item, self.layout = item, layout
        self.delimiter = layout.delimiter.encode()
        self.columns: list[str] = []
        # Where the columns of obs stand before the values.
        self.places: dict[str, int] = {}
        self.width = 0
        # Values other than 0 that may come.
        self.left = ALWAYS_ALLOWED + VALUES_PER_BYTE * item.size

    def parts(self, size: int) -> Iterator[_Rows]:
        """Give ``size`` rows at a time."""
        lines, seen = self.item.lines(), dict[str, int]()
        number, first = next(lines, (0, b""))
        if first.count(self.delimiter) > MOST_COLUMNS:
            raise self.item.wrong(number, f"has more than {MOST_COLUMNS} columns. Check the delimiter")
        header = self.item.fields(number, first, self.layout.delimiter)
        if len(header) < 2:
            found = f"is {first[:60].decode(errors='replace')!r}"
            raise self.item.wrong(number or 1, f"{found}; expected columns with {self.layout.delimiter!r} between them")
        names, before, values = list[str](), list[list[str]](), list[sparse.csr_matrix]()
        texts, numbers = list[bytes](), list[int]()
        for number, line in lines:
            fields, text = self._split(number, line)
            if not self.columns:
                self._begin(header, text, number)
            if (count := text.count(self.delimiter) + 1) != self.width:
                ahead = self.layout.names
                raise self.item.wrong(number, f"has {ahead + count} columns; expected {ahead + self.width}")
            name = fields[0]
            if self.layout.cells == "rows" and seen.setdefault(name, number) != number:
                raise self.item.wrong(number, f"names the cell {name!r}, which line {seen[name]} does; name each once")
            names.append(name)
            before.append(fields)
            texts.append(text)
            numbers.append(number)
            if len(names) == size or sum(map(len, texts)) >= TOGETHER:
                values.append(self._values(texts, numbers))
                texts, numbers = [], []
            if len(names) == size:
                yield self._rows(names, before, values)
                names, before, values = [], [], []
        if not self.columns:
            raise self.item.wrong(number, "is the last one; expected values below the header")
        if texts:
            values.append(self._values(texts, numbers))
        if names:
            yield self._rows(names, before, values)

    def _begin(self, header: list[str], rest: bytes, number: int) -> None:
        """Learn from the first row how wide the table is, and what the header names."""
        layout = self.layout
        self.width = rest.count(self.delimiter) + 1
        count, left = divmod(self.width, layout.blocks)
        named = len(header) - count
        if left or not 0 <= named <= layout.names:
            found = f"holds {self.width} values in {layout.blocks} blocks, and the header has {len(header)} columns"
            expected = f"as many names as values, and up to {layout.names} before them"
            raise self.item.wrong(number, f"{found}; expected {expected}. Check names, blocks and the delimiter")
        self.columns = header[named:]
        if layout.cells == "columns" and len(set(self.columns)) < count:
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise self.item.wrong(1, f"names the cell {twice!r} more than once; name each once")
        titles = header[:named]
        for name, column in layout.obs.items():
            if column not in titles:
                has = ", ".join(map(repr, titles)) or "none"
                raise self.item.wrong(1, f"has no column {column!r} before the values; it has {has}. Check obs, names")
            self.places[name] = titles.index(column) + layout.names - named

    def _rows(self, names: list[str], before: list[list[str]], values: list[sparse.csr_matrix]) -> _Rows:
        described = {key: [fields[at] for fields in before] for key, at in self.places.items()}
        return _Rows(names, described, sparse.vstack(values, format="csr"))

    def _split(self, number: int, line: bytes) -> tuple[list[str], bytes]:
        """Return what stands before the values of a line, and the values."""
        count = self.layout.names
        parts = line.split(self.delimiter, count)
        if any(part.count(b'"') % 2 for part in parts[:count]):  # a quoted name holds a delimiter
            fields = self.item.fields(number, line, self.layout.delimiter)
            parts = [field.encode() for field in fields[:count]]
            parts += [self.delimiter.join(field.encode() for field in fields[count:])] if len(fields) > count else []
        if len(parts) <= count:
            raise self.item.wrong(number, f"has {len(parts)} columns; expected {count} names and the values")
        return [part.decode(errors="replace").strip('"') for part in parts[:count]], parts[count].replace(b'"', b"")

    def _values(self, texts: list[bytes], lines: list[int]) -> sparse.csr_matrix:
        """Return the values of some lines; only those that are not 0 are looked at more closely."""
        text, count = self.delimiter.join(texts), len(self.columns)
        signs = np.frombuffer(text + b"\n", dtype=np.uint8)
        stops = np.append(np.flatnonzero(signs == ord(self.layout.delimiter)), len(text))
        starts = np.append(0, stops[:-1] + 1)
        wanted = slice(self.layout.block * count, (self.layout.block + 1) * count)
        starts, stops = (ends.reshape(len(texts), self.width)[:, wanted].ravel() for ends in (starts, stops))
        lengths = stops - starts
        filled = np.flatnonzero((lengths != 1) | (signs[starts] != ord("0")))
        starts, lengths = starts[filled], lengths[filled]
        numbers = np.full(len(filled), np.nan)
        for length in range(1, min(MOST_DIGITS, lengths.max(initial=0)) + 1):
            some = np.flatnonzero(lengths == length)
            digits = signs[starts[some, None] + np.arange(length)].astype(np.int64) - ord("0")
            whole = ((digits >= 0) & (digits <= 9)).all(axis=1)
            numbers[some[whole]] = digits[whole] @ 10 ** np.arange(length)[::-1]
        self.left -= len(filled)
        if self.left < 0:
            raise self.item.wrong(lines[-1], "holds more values than a file of this size can hold. " + DAMAGED[:-1])
        rows, columns = np.divmod(filled, count)
        too_large = (numbers > LARGEST_LOG) & (self.layout.values == "log")
        for place in np.flatnonzero(np.isnan(numbers) | too_large):
            word = text[starts[place] : starts[place] + lengths[place]].decode(errors="replace")
            numbers[place] = self._number(word, lines[rows[place]], columns[place])
        row_starts = np.searchsorted(rows, np.arange(len(texts) + 1))
        parts = numbers.astype(np.float32), columns.astype(np.int32), row_starts.astype(np.int32)
        values = sparse.csr_matrix(parts, shape=(len(texts), count))
        values.eliminate_zeros()
        return values

    def _number(self, word: str, line: int, place: int) -> float:
        """Return a number of a kind that the layout allows."""
        try:
            value = float(word) if "_" not in word else float("nan")
        except ValueError:
            value = float("nan")
        kind = self.layout.values
        if not 0 <= value < float("inf"):
            expected = "a number that is not negative"
        elif kind == "counts" and value != round(value):
            expected = "a whole number, as counts are"
        elif kind == "log" and value > LARGEST_LOG:
            expected = f"a logarithm, at most {LARGEST_LOG:g}"
        else:
            return value
        raise self.item.wrong(line, f"holds {word[:40]!r} for {self.columns[place]!r}; expected {expected}")

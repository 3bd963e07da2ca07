"""Split lines of a table, and interpret numbers and missing values."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spikgpt.errors import DataError, with_noun

# Delimiters from the most to the least likely; the first wins a tie. Space is tried last, because names contain spaces.
DELIMITERS = ("\t", ";", ",", "|", " ")
# Kinds of fields.
NUMBER, WORD, MISSING_VALUE = range(3)
# Number of lines that are split to detect the delimiter.
TRIED_LINES = 10
# Largest number of columns of a table.
MOST_COLUMNS = 2_000_000
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "-", "."}
COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
# A comma before three digits may be a decimal comma or a thousands separator.
THOUSANDS = re.compile(r"[+-]?\d{1,3},\d{3}")


@dataclass(frozen=True)
class Splitter:
    """Split the lines of a table at ``delimiter``; ``comma`` is True if the numbers have decimal commas."""

    delimiter: str
    name: object
    comma: bool = False

    @classmethod
    def from_lines(cls, lines: Sequence[str], name: object) -> Splitter:
        """Detect the delimiter that splits the first lines of a table, including the header, into equally many fields.

        Raises
        ------
        DataError
            When the lines are no table.
        """
        if len(lines) < 2:
            msg = f"{name} has {with_noun(len(lines), 'line')}; expected a header, and a line for each cell or gene."
            raise DataError(msg)
        best, most, lines = None, 1, lines[: TRIED_LINES + 1]
        for delimiter in DELIMITERS:
            if delimiter == " " and best:
                break
            splitter = cls(delimiter, name)
            widths = Counter(len(splitter(line)) for line in lines[1:])
            width, count = widths.most_common(1)[0]
            fits = abs(len(splitter(lines[0])) - width) <= 1 and 10 * count >= 9 * (len(lines) - 1)
            if fits and width > most:
                best, most = splitter, width
        if best is None:
            begin = lines[0][:60]
            msg = (
                f"{name} begins with {begin!r}; expected a table with equally many columns in each line, with tabs, "
                "commas, semicolons or spaces between them."
            )
            raise DataError(msg)
        return cls(best.delimiter, name, best.delimiter != "," and best._has_commas(lines[1:]))

    def __call__(self, line: str) -> list[str]:
        """Return the fields of a line, without quotes."""
        if len(line) > MOST_COLUMNS and line.count(self.delimiter) > MOST_COLUMNS:
            msg = f"{self.name} has more than {MOST_COLUMNS} columns; expected a table of cells and genes."
            raise DataError(msg)
        if '"' not in line:
            return line.split() if self.delimiter == " " else line.split(self.delimiter)
        try:
            return next(csv.reader([line], delimiter=self.delimiter, skipinitialspace=True), [])
        except csv.Error as error:
            msg = f"{self.name} has a line that cannot be split ({error}): {line[:60]!r}."
            raise DataError(msg) from None

    def _has_commas(self, lines: Sequence[str]) -> bool:
        """Return True if numbers have decimal commas; raise DataError if the commas may separate thousands."""
        with_comma = [field for line in lines for field in self(line) if COMMA.fullmatch(field.strip())]
        if with_comma and all(THOUSANDS.fullmatch(field.strip()) for field in with_comma):
            msg = (
                f"{self.name} holds {with_comma[0]!r}, which may be {with_comma[0].replace(',', '.')} or "
                f"{with_comma[0].replace(',', '')}; expected decimal points. Write the table again with decimal points."
            )
            raise DataError(msg)
        return bool(with_comma)


def kind_of(field: str, comma: bool) -> int:
    """Return the kind of a field: ``NUMBER``, ``WORD`` or ``MISSING_VALUE``."""
    try:
        value = number(field, comma)
    except ValueError:
        return MISSING_VALUE if is_missing(field) else WORD
    return NUMBER if value == value else MISSING_VALUE


def is_missing(field: str) -> bool:
    """Return True if a field stands for a missing value, such as an empty text or NA."""
    return field.strip().lower() in MISSING


def number(field: str, comma: bool) -> float:
    """Return the number in a field; with ``comma`` True, the number may have a decimal comma."""
    field = field.strip()
    if comma and COMMA.fullmatch(field):
        field = field.replace(",", ".")
    if "_" in field:
        raise ValueError(field)
    return float(field)

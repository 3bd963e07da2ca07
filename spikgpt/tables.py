"""Tables and texts for terminals and notebooks; names from files are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from spikgpt.errors import printable

Row = tuple[str, ...]
# Square before the first text of a row, in the colour of the row.
SQUARE = "&#9632;"
# Largest number of characters of a name that is kept on one line.
LONGEST_UNBROKEN = 40


class Markup(str):
    """HTML that is escaped already."""

    __slots__ = ()


def text_table(columns: Sequence[str], rows: Sequence[Row], *, numbers: int) -> str:
    """Return a table as text; the columns from index ``numbers`` on are aligned to the right."""
    lines = [tuple(columns), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if index < numbers else ">" for index in range(len(columns))]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    )


def html_table(
    columns: Sequence[str], rows: Sequence[Row], *, numbers: int, colors: Sequence[str] | None = None
) -> str:
    """Return a table as HTML; the columns from index ``numbers`` on are aligned to the right.

    ``colors`` are hex codes, one for each row: each row then starts with a square of this colour.
    """

    def line(cells: Sequence[str], tag: str, color: str = "") -> str:
        square = f'<span style="color:{color}">{SQUARE}</span> ' if color else ""
        sides = ("left" if index < numbers else "right" for index in range(len(cells)))
        texts = (cell if isinstance(cell, Markup) else escaped(cell) for cell in cells)
        parts = (
            f'<{tag} style="text-align:{side}">{square if index == 0 else ""}{text}</{tag}>'
            for index, (text, side) in enumerate(zip(texts, sides, strict=True))
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td", color) for row, color in zip(rows, colors or [""] * len(rows), strict=True))
    return f"<table><thead>{line(columns, 'th')}</thead><tbody>{body}</tbody></table>"


def html_view(heading: str, texts: Iterable[str], tables: Iterable[str] = (), notes: Iterable[str] = ()) -> str:
    """Return the view of an object in a notebook: heading, texts, tables that are HTML already, and notes."""
    parts = [f"<p><strong>{escaped(heading)}</strong></p>", *(f"<p>{escaped(text)}</p>" for text in texts), *tables]
    return "".join([*parts, *(f"<p>Note: {escaped(note)}</p>" for note in notes)])


def by_number(name: str) -> tuple[bool, int, str]:
    """Return a sort key that puts "9" before "10", and numbers before other names."""
    number = name.isascii() and name.isdecimal() and len(name) < 16
    return not number, int(name) if number else 0, name


def unbroken(names: Iterable[str]) -> Markup:
    """Return names for HTML, separated by commas; a short name is not divided at the end of a line."""
    parts = (
        f'<span style="white-space:nowrap">{escaped(name)}</span>' if len(name) <= LONGEST_UNBROKEN else escaped(name)
        for name in names
    )
    return Markup(", ".join(parts))


def escaped(text: str) -> str:
    """Return text for HTML, on one line, without markup and control characters."""
    return html.escape(printable(text))

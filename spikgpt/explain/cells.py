"""Choice of cells by name, by position, or by True and False for each cell."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from spikgpt.errors import ConfigError, printable, with_noun
from spikgpt.types import Rows

# Largest number of names that are compared with a misspelt name.
COMPARED = 10_000
# Largest number of letters of a misspelt name in an error message.
LONGEST = 100


def cell_rows(names: Iterable[Any], cells: Any) -> Rows:
    """Return the row numbers of cells, in the given order.

    Parameters
    ----------
    names
        Names of all n cells.
    cells
        One name or position, several of them, or True and False for each cell. A text may have several names or
        positions, separated by commas.

    Raises
    ------
    ConfigError
        When a name or position does not exist, or the number of True and False differs from n.
    """
    chosen: list[Any] = [cells] if isinstance(cells, str) or not isinstance(cells, Iterable) else list(cells)
    all_names = [str(name) for name in names]
    size = len(all_names)
    if chosen and all(isinstance(cell, bool | np.bool_) for cell in chosen):
        if len(chosen) != size:
            msg = (
                f"cells has {with_noun(len(chosen), 'value')}; expected one True or False for each of the {size} cells."
            )
            raise ConfigError(msg)
        return np.flatnonzero(chosen)
    # The first of several cells with the same name is chosen.
    by_name = dict(zip(reversed(all_names), range(size - 1, -1, -1), strict=True))
    return np.array([_row(cell, by_name, size) for cell in _single(chosen, by_name)], dtype=np.int64)


def _single(chosen: Sequence[Any], by_name: dict[str, int]) -> Iterator[Any]:
    """Yield single names and positions; a text is split at commas unless it is the name of a cell."""
    for cell in chosen:
        if isinstance(cell, str) and cell not in by_name:
            yield from cell.split(",")
        else:
            yield cell


def _row(cell: Any, by_name: dict[str, int], size: int) -> int:
    """Return the row number of a cell from its name, or else its position."""
    text = cell if isinstance(cell, str) and cell in by_name else str(cell).strip()
    if isinstance(cell, str) and text in by_name:
        return by_name[text]
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        if 0 <= int(text) < size:
            return int(text)
        msg = f"cells names the position {text}; expected 0 to {size - 1}, or names of cells."
        raise ConfigError(msg)
    near = difflib.get_close_matches(text, list(by_name)[:COMPARED], n=1, cutoff=0.5)
    hint = f"Did you mean {printable(near[0])!r}?" if near else "Pass names of obs_names, or positions."
    msg = f"cells names {printable(text[:LONGEST])!r}, which is not one of the {size} cells. {hint}"
    raise ConfigError(msg)

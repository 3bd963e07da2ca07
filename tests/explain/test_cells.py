"""Choice of cells by name, by position, or by a Boolean mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from spikgpt.errors import ConfigError
from spikgpt.explain.cells import cell_rows

NAMES = pd.Index(["a", "b", "a b", "c,d", "1", "a"])


@pytest.mark.parametrize(
    ("cells", "rows"),
    [
        ("a b", [2]),
        ("b,a", [1, 0]),
        ("c,d", [3]),
        ([" b ", "c,d"], [1, 3]),
        ("1", [4]),
        (1, [1]),
        ("2", [2]),
        (np.array([5, 0]), [5, 0]),
        (["b", 2], [1, 2]),
        (NAMES[1:3], [1, 2]),
        (pd.Series([False, True, False, False, False, True]), [1, 5]),
        ([], []),
    ],
)
def test_cells_have_names_positions_or_marks(cells: Any, rows: list[int]) -> None:
    np.testing.assert_array_equal(cell_rows(NAMES, cells), rows)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("--5", "cells names '--5', which is not one of the 6 cells"),
        ("9" * 5000, "which is not one of the 6 cells"),
        ("6", "cells names the position 6; expected 0 to 5, or names of cells"),
        (-1, "cells names the position -1"),
        (0.5, "cells names '0.5'"),
        ([True, False], "cells has 2 values; expected one True or False for each of the 6 cells"),
        ("a  b", "Did you mean 'a b'"),
    ],
)
def test_invalid_cells_are_refused(cells: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cell_rows(NAMES, cells)

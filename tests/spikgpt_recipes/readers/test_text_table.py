"""Tables are read exactly; errors name the wrong line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spikgpt.errors import DataError
from spikgpt_recipes.layouts import Csv
from spikgpt_recipes.readers import text_table
from spikgpt_recipes.readers.bounded import BoundedFile
from spikgpt_recipes.readers.text_table import CellChunk, read_text_table

ROWS = b"cell,kind,A,B,C\none,x,0,1,20\ntwo,y,300,0,0\n"
COLUMNS = b"gene,one,two\nA,0,300\nB,1,0\nC,20,0\n"
EXPECTED = [[0, 1, 20], [300, 0, 0]]


def read(content: bytes, folder: Path, size: int = 10, **layout: Any) -> list[CellChunk]:
    path = folder / "table.csv"
    path.write_bytes(content)
    return list(read_text_table(BoundedFile.from_path(path), Csv(**layout), size))


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        ROWS.replace(b"\n", b"\r\n"),
        ROWS.strip(),
        ROWS.replace(b"cell,", b""),
        ROWS.replace(b"cell", b'""').replace(b"one", b'"one"').replace(b",1,", b',"1",'),
        ROWS.replace(b"300", b"3e2").replace(b",1,", b",1.0,").replace(b"20", b" 020"),
    ],
)
def test_a_table_with_cells_in_rows_is_read(content: bytes, tmp_path: Path) -> None:
    layout: dict[str, Any] = {"cells": "rows", "names": 2, "obs": {"type": "kind"}}
    (chunk,) = read(content, tmp_path, **layout)
    np.testing.assert_array_equal(chunk.values.toarray(), EXPECTED)
    assert (chunk.names, list(chunk.var.index), chunk.obs) == (["one", "two"], ["A", "B", "C"], {"type": ["x", "y"]})
    assert [part.names for part in read(content, tmp_path, 1, **layout)] == [["one"], ["two"]]


@pytest.mark.parametrize("content", [COLUMNS, COLUMNS.replace(b"gene,", b""), COLUMNS.replace(b",", b"\t")])
def test_a_table_with_cells_in_columns_is_read(content: bytes, tmp_path: Path) -> None:
    delimiter = "\t" if b"\t" in content else ","
    for size in (1, 2, 10):
        parts = read(content, tmp_path, size, cells="columns", delimiter=delimiter)
        np.testing.assert_array_equal(np.vstack([part.values.toarray() for part in parts]), EXPECTED)
        assert [name for part in parts for name in part.names] == ["one", "two"]
        assert all(list(part.var.index) == ["A", "B", "C"] for part in parts)


def test_quoted_names_may_contain_the_delimiter(tmp_path: Path) -> None:
    (chunk,) = read(b'cell,A,B\n"one, two",1,2\n', tmp_path, cells="rows")
    assert chunk.names == ["one, two"]
    np.testing.assert_array_equal(chunk.values.toarray(), [[1, 2]])


@pytest.mark.parametrize(("block", "expected"), [(0, [[1, 0], [2, 5]]), (1, [[3, 0], [0, 6]])])
def test_one_of_two_blocks_of_values_is_read(block: int, expected: list[list[int]], tmp_path: Path) -> None:
    content = b"#samples\tone\ttwo\nA\tx\t1\t2\t3\t0\nB\ty\t0\t5\t0\t6\n"
    layout: dict[str, Any] = {"cells": "columns", "delimiter": "\t", "names": 2, "blocks": 2, "block": block}
    (chunk,) = read(content, tmp_path, **layout)
    np.testing.assert_array_equal(chunk.values.toarray(), expected)


def test_numbers_equal_those_of_pandas(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.gamma(0.3, 100, (30, 40)).round(3) * (random.random((30, 40)) < 0.3))
    table.iloc[:, :20] = table.iloc[:, :20].round()
    table.iloc[0, :5] = [12345678.0, 1e7, 1e-7, 9999999.0, 0.0]
    table.to_csv(tmp_path / "table.csv")
    (chunk,) = read((tmp_path / "table.csv").read_bytes(), tmp_path, 100, cells="rows", values="linear")
    np.testing.assert_array_equal(chunk.values.toarray(), table.to_numpy().astype(np.float32))


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        (ROWS, {}, "line 2, holds 'x' for 'kind'; expected a whole number, not negative"),
        (ROWS, {"names": 2, "delimiter": "\t"}, "line 1, is 'cell,kind,A,B,C'; expected columns with '\\\\t' between"),
        (ROWS, {"names": 2, "obs": {"a": "b"}}, "line 1, has no column 'b' before the values; it has 'cell', 'kind'."),
        (ROWS, {"names": 1, "obs": {"a": "kind"}}, "line 1, has no column 'kind' before the values; it has 'cell'."),
        (ROWS[:-3], {"names": 2}, "line 3, has 4 columns; expected 5"),
        (ROWS + b"three,z,1,2,3,4\n", {"names": 2}, "line 4, has 6 columns; expected 5"),
        (ROWS + b"three\n", {"names": 2}, "line 4, has 1 column; expected 2 names and the values"),
        (ROWS + b"one,z,1,2,3\n", {"names": 2}, "line 4, repeats the cell 'one' of line 2; name each once"),
        (ROWS.replace(b",1,", b",-1,"), {"names": 2}, "line 2, holds '-1' for 'B'; expected a whole number"),
        (ROWS.replace(b",1,", b",NA,"), {"names": 2}, "line 2, holds 'NA' for 'B'"),
        (ROWS.replace(b",1,", b",,"), {"names": 2}, "line 2, holds '' for 'B'"),
        (ROWS.replace(b",1,", b",inf,"), {"names": 2}, "line 2, holds 'inf' for 'B'"),
        (ROWS.replace(b",1,", b",1_0,"), {"names": 2}, "line 2, holds '1_0' for 'B'"),
        (
            ROWS.replace(b",1,", b",1.5,"),
            {"names": 2},
            "line 2, holds '1.5' for 'B'; expected a whole number",
        ),
        (ROWS, {"names": 2, "values": "log"}, "line 3, holds '300' for 'A'; expected a logarithm of at most 25"),
        (b"cell,A\none,1,2,3\n", {}, "line 2, holds 3 values in 1 block, and the header has 2 columns; expected as"),
        (b"cell,A,B,C\none,1,2,3\n", {"blocks": 2}, "line 2, holds 3 values in 2 blocks"),
        (b"cell,A,B\n", {}, "line 1, is the last one; expected values below the header"),
        (b"cell\r,A\none,1\n", {}, "line 1, is no line of a table (new-line character seen in unquoted field"),
        (b"", {}, "line 1, is ''; expected columns with ',' between them"),
        (b"<!DOCTYPE html>\n<html>\n", {}, "line 1, is '<!DOCTYPE html>'; expected columns"),
        (COLUMNS.replace(b"two", b"one"), {"cells": "columns"}, "line 1, repeats the cell 'one'"),
    ],
)
def test_invalid_tables_are_refused_with_the_line(
    content: bytes, layout: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(content, tmp_path, **{"cells": "rows"} | layout)
    assert f"{tmp_path / 'table.csv'}, {message.encode().decode('unicode_escape')}" in str(caught.value)


def test_memory_is_limited_to_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "BATCH", 10_000)
    row = ",".join(["0"] * 19 + ["1"])
    lines = [",".join(["cell", *(f"g{index}" for index in range(2000))])]
    lines += [f"c{index},{','.join([row] * 100)}" for index in range(600)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    item, layout = BoundedFile.from_path(tmp_path / "table.csv"), Csv(cells="rows")
    tracemalloc.start()
    assert sum(part.values.nnz for part in read_text_table(item, layout, 30)) == 600 * 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # the file has 2.4 MB, the values as floats 4.8 MB

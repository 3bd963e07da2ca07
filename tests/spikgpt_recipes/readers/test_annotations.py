"""Annotation files are read, and cells are matched by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spikgpt.errors import DataError
from spikgpt_recipes.layouts import SeriesMatrix, StudyAnnotation, StudyGeneTable
from spikgpt_recipes.readers.annotations import read_description, read_gene_names
from spikgpt_recipes.readers.bounded import BoundedFile
from tests.spikgpt_recipes.study_files import packed, series_matrix

TABLE = b"cell\tkind\tnote\none\talpha\t\ntwo\tNA\tx\n"


def item(content: bytes, folder: Path) -> BoundedFile:
    (folder / "table.tsv").write_bytes(content)
    return BoundedFile.from_path(folder / "table.tsv")


def described(content: bytes, folder: Path, **layout: Any) -> dict[str, str]:
    table = read_description(item(content, folder), StudyAnnotation(**{"obs": {"type": "kind"}} | layout))
    assert list(table.columns) == ["type"]
    return dict(zip(table.index, table["type"], strict=True))


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (TABLE, {}),
        (packed(TABLE), {"cell": "cell"}),
        (TABLE.replace(b"cell\t", b""), {}),
        (TABLE.replace(b"\t", b","), {"delimiter": ","}),
        (b"A title\n\n" + TABLE, {"skip": 2}),
        (TABLE.replace(b"one", b"TYPE\tgroup\tgroup\none"), {"units": 1}),
        (TABLE.replace(b"one", b"No. 1").replace(b"two", b"No. 2"), {"rename": {"No. 1": "one", r"No\. 2": "two"}}),
        (TABLE + b"one\talpha\t\ntwo\tNA\tof another run\n", {}),
    ],
)
def test_annotations_give_a_label_per_cell(content: bytes, layout: dict[str, Any], tmp_path: Path) -> None:
    assert described(content, tmp_path, **layout) == {"one": "alpha", "two": "NA"}


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        (
            TABLE,
            {"obs": {"type": "type"}},
            r"table\.tsv has no column 'type'; it has 'cell', 'kind', 'note'\. Check",
        ),
        (TABLE, {"cell": "name"}, r"has no column 'name'"),
        (
            TABLE,
            {"delimiter": ","},
            r"has no column 'kind'; it has 'cell\\tkind\\tnote'\. Check the delim",
        ),
        (TABLE + b"one\tbeta\t\n", {}, r"describes the cell 'one' as alpha and as beta"),
        (
            TABLE + b"three\tbeta\tx\ty\tz\n",
            {},
            r"table\.tsv has a row of 5 columns, .*; expected 3\. Check",
        ),
        (packed(TABLE)[:-9], {}, r"table\.tsv cannot be read: "),
        (b"", {}, r"table\.tsv has no column"),
        (TABLE + b"three\n", {}, r"table\.tsv has a row of 1 column, 'three'; expected 3"),
    ],
)
def test_invalid_annotations_are_refused(content: bytes, layout: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        described(content, tmp_path, **layout)


def test_series_matrices_give_characteristics_per_sample(tmp_path: Path) -> None:
    characteristics = {"age": ["40", "41"], "cell type": ["Beta", "None/Other"]}
    content = series_matrix(["10th_C1", "10th_C2"], characteristics)
    layout = SeriesMatrix(obs={"label": "cell type", "accession": "!Sample_geo_accession"})
    table = read_description(item(content, tmp_path), layout)
    assert table.to_dict("index") == {
        "10th_C1": {"label": "Beta", "accession": "GSM0"},
        "10th_C2": {"label": "None/Other", "accession": "GSM1"},
    }
    by_accession = SeriesMatrix(obs={"age": "age"}, cell="!Sample_geo_accession", rename={"GSM": "cell "})
    assert dict(read_description(item(content, tmp_path), by_accession)["age"]) == {"cell 0": "40", "cell 1": "41"}


def test_characteristics_may_be_in_different_lines(tmp_path: Path) -> None:
    lines = [
        b'!Sample_title\t"a"\t"b"',
        b'!Sample_characteristics_ch1\t"age: 1"\t"cell type: x"',
        b'!Sample_characteristics_ch1\t"cell type: y"\t""',
    ]
    layout = SeriesMatrix(obs={"label": "cell type", "age": "age"})
    table = read_description(item(b"\n".join(lines), tmp_path), layout)
    assert table.to_dict("list") == {"label": ["y", "x"], "age": ["1", ""]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            series_matrix(["a"], {"age": ["1"]}),
            r"has no 'cell type'; it has '!Sample_title', .*, 'age'\.",
        ),
        (b'!Sample_title\t"a"\t"b"\n!Sample_x\t"a"\n', r"line 2, has 1 sample; expected 2"),
        (b"<html>", r"has no 'cell type'; it has none"),
    ],
)
def test_invalid_series_matrices_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_description(item(content, tmp_path), SeriesMatrix(obs={"label": "cell type"}))


def test_a_gene_table_maps_ids_to_symbols(tmp_path: Path) -> None:
    layout = StudyGeneTable(file="table.tsv", id="id", name="symbol")
    names = read_gene_names(item(b"id,symbol,x\n1,A,\n2,,\n1,B,\n3,NA,\n", tmp_path), layout)
    assert names == {"1": "A", "3": "NA"}
    with pytest.raises(DataError, match=r"table\.tsv has no column 'symbol'; it has 'id', 'name'"):
        read_gene_names(item(b"id,name\n", tmp_path), layout)

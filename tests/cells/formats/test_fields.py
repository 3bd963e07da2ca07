"""Recognition of the delimiter, the numbers and the missing values of a text table."""

from __future__ import annotations

import pytest

from spikgpt.cells.formats.fields import MISSING_VALUE, MOST_COLUMNS, NUMBER, WORD, Splitter, kind_of, number
from spikgpt.errors import DataError


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        ([",INS,GCG", "a,1,0", "b,0,2"], ","),
        ([";INS;GCG", "a;1,5;0,25", "b;0;2,5"], ";"),
        (["\tINS\tGCG", "cell a\t1\t0", "cell b\t0\t2"], "\t"),
        (["INS GCG", "a 1 0", "b 0 2"], " "),
        (['"INS" "GCG"', '"cell a" 1 0', '"cell b" 0 2'], " "),
        (["INS  GCG", "a   1  0", "b   0 22"], " "),
        (["name,INS,GCG", '"a, b",1,0', '"c, d",0,2'], ","),
        (["|INS|GCG", "a|1|0"], "|"),
    ],
)
def test_the_delimiter_is_recognised(lines: list[str], delimiter: str) -> None:
    split = Splitter.from_lines(lines, "a.csv")
    assert split.delimiter == delimiter
    assert [len(split(line)) for line in lines[1:]] == [3] * (len(lines) - 1)


def test_decimal_commas_are_recognised() -> None:
    assert Splitter.from_lines([";INS", "a;1,5", "b;1,250"], "a.csv").comma
    assert not Splitter.from_lines([";INS", "a;1.5"], "a.csv").comma
    assert number(" 1,5 ", comma=True) == 1.5
    with pytest.raises(DataError, match=r"a\.csv holds '1,250', which may be 1\.250 or 1250; expected decimal points"):
        Splitter.from_lines([";INS;GCG", "a;1,250;2", "b;0;3,500"], "a.csv")


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        *((text, MISSING_VALUE) for text in ("", "NA", "nan", "#N/A", " ")),
        ("1e3", NUMBER),
        ("-2", NUMBER),
        ("1_0", WORD),
    ],
)
def test_kinds_of_fields_are_recognised(field: str, kind: int) -> None:
    assert kind_of(field, comma=False) == kind


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], r"a\.csv has 0 lines; expected a header"),
        ([",INS"], r"a\.csv has 1 line; expected"),
        (
            ["This is a text.", "It has", "no columns at all in it."],
            r"begins with 'This is a text\.'; expected a table",
        ),
        ([",INS", "a" + "," * (MOST_COLUMNS + 1)], "has more than 2000000 columns"),
    ],
)
def test_text_without_a_table_is_refused(lines: list[str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        Splitter.from_lines(lines, "a.csv")

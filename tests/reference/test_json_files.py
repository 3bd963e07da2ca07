"""JSON files are read by a schema, or refused."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from spikgpt.errors import DamagedReference, LabelsError
from spikgpt.reference.json_files import converted, dumped, parsed


class Score(msgspec.Struct, forbid_unknown_fields=True):
    label: str
    accuracy: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.label == "Unknown":
            msg = "a label is called Unknown."
            raise LabelsError(msg)


class Table(msgspec.Struct):
    rows: list[Score] = []
    named: dict[str, Score] = {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "one of a occurs twice"),
        (b'{"\\n": 1, "\\n": 2}', r"one of \\n occurs twice"),
        (b"[Infinity]", "Infinity is no number"),
        (b"{'a': 1}", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b'{"a":' * 9999, "is not valid JSON"),
    ],
)
def test_json_is_read_strictly(content: bytes, message: str) -> None:
    with pytest.raises(DamagedReference, match=message):
        parsed(content, "x.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": [{"label": "a", "accuracy": 1.5}]}, "Expected `float` <= 1.0, in rows[0].accuracy: found 1.5"),
        ({"rows": [{"label": ["a"]}]}, "Expected `str`, got `array`, in rows[0].label"),
        ({"named": {"x": {"label": 3}}}, "Expected `str`, got `int`, in named[...].label"),
        ({"rows": [{"label": "a", "\n": 1}]}, "Object contains unknown field `\\n`, in rows[0]"),
        ({"rows": [{"label": "Unknown"}]}, "a label is called Unknown"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_values_of_another_form_are_refused_in_one_line(values: Any, message: str) -> None:
    with pytest.raises(DamagedReference) as raised:
        converted(values, "x.json", Table)
    assert str(raised.value) == f"x.json is not valid: {message}. Get the reference again."


def test_a_value_gives_the_same_bytes() -> None:
    assert dumped(Score("β", 0.5)) == b'{\n "label": "\xce\xb2",\n "accuracy": 0.5\n}\n'


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_other_encodings_are_refused(coding: str) -> None:
    with pytest.raises(DamagedReference, match="is not valid JSON"):
        parsed('{"target_sum": 1e999}'.encode(coding), "config.json")


@pytest.mark.parametrize("text", ["1E400", "1e+300", "1e0300", "123456789012345678901", "-1E+100"])
def test_large_numbers_are_refused_in_any_notation(text: str) -> None:
    with pytest.raises(DamagedReference, match="is no number"):
        parsed(b'{"a": [' + text.encode() + b"]}", "a.json")

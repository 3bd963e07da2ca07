"""Files that are whole or not there, and JSON that is read by a schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from spikgpt.errors import DamagedReference, LabelsError
from spikgpt.files import converted, dumped, parsed, replacing


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
        (b'{"a": 1, "a": 2}', "one of a stands there twice"),
        (b'{"\\n": 1, "\\n": 2}', r"one of \\n stands there twice"),
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
def test_what_is_of_another_form_is_said_in_a_line(values: Any, message: str) -> None:
    with pytest.raises(DamagedReference) as raised:
        converted(values, "x.json", Table)
    assert str(raised.value) == f"x.json is not what it should be: {message}. Get the reference again."


def test_a_value_gives_the_same_bytes() -> None:
    assert dumped(Score("β", 0.5)) == b'{\n "label": "\xce\xb2",\n "accuracy": 0.5\n}\n'


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_there_stays_when_its_place_cannot_be_taken(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "replaced", Path.replace

    def write(target: Path, text: str) -> None:
        if kind == "folder":
            target.mkdir()
        (target / "a" if kind == "folder" else target).write_text(text)

    def fail(source: Path, target: Path) -> Path:
        if target == path and source.name == path.name:
            msg = "no room"
            raise OSError(msg)
        return rename(source, target)

    with replacing(path) as temporary:
        write(temporary, "old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no room"), replacing(path) as temporary:
        write(temporary, "new")
    monkeypatch.undo()
    assert (path / "a" if kind == "folder" else path).read_text() == "old"
    with replacing(path) as temporary:
        write(temporary, "new")
    assert (path / "a" if kind == "folder" else path).read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["replaced"]


def test_what_was_there_stays_when_the_work_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("older")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]

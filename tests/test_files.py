"""Files and folders that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikgpt.files import replacing


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

"""Files and folders that are whole or not there."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError
from spikgpt.files import alone, replacing


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
    monkeypatch.setattr("spikgpt.files._swapped", lambda one, other: False)
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


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no system call swaps names here")
def test_a_folder_is_whole_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
    path, done, found = tmp_path / "reference", threading.Event(), set()

    def look() -> None:
        while not done.is_set():
            found.add((path / "a").exists() and (path / "b").exists())

    for round_ in range(200):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "a").write_text(str(round_))
            (temporary / "b").touch()
        if round_ == 0:
            watch = threading.Thread(target=look)
            watch.start()
    done.set()
    watch.join()
    assert found == {True}
    assert (path / "a").read_text() == "199"
    assert [file.name for file in tmp_path.iterdir()] == ["reference"]


def test_one_process_at_a_time_holds_a_file_and_a_killed_one_none(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    lines = ("import sys", "from pathlib import Path", "from spikgpt.files import alone")
    hold = "\n".join((*lines, "with alone(Path(sys.argv[1]), ''):", " print('held', flush=True)", " sys.stdin.read()"))
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="Wait"), alone(path, "Wait."):
            pass
        other.kill()
    with alone(path, "Wait."):
        pass
    assert path.read_bytes() == b""

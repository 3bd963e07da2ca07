"""Files and folders that are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from spikgpt.errors import ConfigError
from spikgpt.files import check_target, hold_lock, replacing


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
    lines = ("import sys", "from pathlib import Path", "from spikgpt.files import hold_lock")
    block = ("with hold_lock(Path(sys.argv[1]), ''):", " print('held', flush=True)", " sys.stdin.read()")
    hold = "\n".join((*lines, *block))
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="Wait"), hold_lock(path, "Wait."):
            pass
        other.kill()
    with hold_lock(path, "Wait."):
        pass
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(kind: str, tmp_path: Path) -> None:
    target, link = tmp_path / "data" / "target", tmp_path / "link"
    link.symlink_to("data/target")
    if kind == "folder":
        target.mkdir(parents=True)
    elif kind == "file":
        target.parent.mkdir()
        target.write_text("old")
        target.chmod(0o640)
    with replacing(link) as temporary:
        if kind == "folder":
            temporary.mkdir()
        else:
            temporary.write_text("new")
    assert link.is_symlink()
    assert kind == "folder" or target.read_text() == "new"
    assert kind != "file" or target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "link", "target"]


@pytest.mark.parametrize("name", [".", "..", "/", "below/..", "loop"])
def test_the_current_folder_and_those_above_it_are_not_replaced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    Path("loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="leads to itself" if name == "loop" else "current folder"):
        check_target(Path(name))
    check_target(Path("new"))


WRITE = """if True:
    import sys
    from pathlib import Path
    from spikgpt.files import replacing
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_what_a_killed_process_left_is_removed_and_a_live_one_is_left_alone(tmp_path: Path) -> None:
    path, kept = tmp_path / "out.h5ad", {".out.h5ad.backup", ".out.h5ad.training", ".other.txt"}
    for name in kept:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", WRITE, str(path)]
    with (
        subprocess.Popen(command, stdin=-1, stdout=-1) as killed,
        subprocess.Popen(command, stdin=-1, stdout=-1) as live,
    ):
        for process in (killed, live):
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2 + len(kept)
        with replacing(path) as temporary:
            temporary.write_text("whole")
        assert len(list(tmp_path.iterdir())) == 2 + len(kept)  # the file, and the folder of the live process
        assert path.read_text() == "whole"
        live.communicate()
    assert path.read_text() == "half"
    assert {file.name for file in tmp_path.iterdir()} == kept | {"out.h5ad"}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_leftovers_of_another_machine_are_removed_after_a_day_and_a_replaced_folder_comes_back(tmp_path: Path) -> None:
    path, left = tmp_path / "out", tmp_path / ".out.01234567.abcdefgh"
    (left / ".replaced").mkdir(parents=True)
    (left / ".replaced" / "a").write_text("old")

    def fail() -> None:
        with replacing(path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert left.exists()
    for file in (*left.rglob("*"), left):
        os.utime(file, times=(time.time() - 90_000, time.time() - 90_000))
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (path / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".h5ad")
    with replacing(path) as temporary:
        temporary.write_text("a")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_another_process_removed_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], tempfile.mkdtemp

    def removed_once(**options: Any) -> str:
        folder = str(make(**options))
        made.append(folder)
        if len(made) == 1:
            Path(folder).rmdir()
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", removed_once)
    with replacing(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "out.txt").read_text() == "whole"
    assert len(made) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_that_takes_no_files_is_named_as_the_user_did() -> None:
    message = "/proc/labels cannot be written: /proc takes no new files. Name another path."
    with pytest.raises(ConfigError, match=f"^{message}$"), replacing(Path("/proc/labels")):
        pass

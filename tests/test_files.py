"""Files and folders are written completely or not at all."""

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
def test_the_old_file_is_kept_if_renaming_fails(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr("spikgpt.files._swapped", lambda first, second: False)
    with pytest.raises(OSError, match="no room"), replacing(path) as temporary:
        write(temporary, "new")
    monkeypatch.undo()
    assert (path / "a" if kind == "folder" else path).read_text() == "old"
    with replacing(path) as temporary:
        write(temporary, "new")
    assert (path / "a" if kind == "folder" else path).read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["replaced"]


def test_the_old_file_is_kept_if_writing_is_interrupted(tmp_path: Path) -> None:
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
def test_a_folder_is_complete_at_every_moment_of_a_replacement(tmp_path: Path) -> None:
    path, done, complete = tmp_path / "reference", threading.Event(), set()

    def look() -> None:
        while not done.is_set():
            complete.add((path / "a").exists() and (path / "b").exists())

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
    assert complete == {True}
    assert (path / "a").read_text() == "199"
    assert [file.name for file in tmp_path.iterdir()] == ["reference"]


def test_a_lock_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
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
def test_the_target_of_a_link_is_replaced_and_the_link_kept(kind: str, tmp_path: Path) -> None:
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
def test_the_current_folder_and_its_parents_are_not_replaced(
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
def test_temporary_files_of_killed_processes_only_are_removed(tmp_path: Path) -> None:
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
        # The folder holds the output, and the temporary folder of the process that still runs.
        assert len(list(tmp_path.iterdir())) == 2 + len(kept)
        assert path.read_text() == "whole"
        live.communicate()
    assert path.read_text() == "half"
    assert {file.name for file in tmp_path.iterdir()} == kept | {"out.h5ad"}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_leftovers_of_another_machine_are_restored_or_removed_after_a_day(tmp_path: Path) -> None:
    path, leftover = tmp_path / "out", tmp_path / ".out.01234567.abcdefgh"
    (leftover / ".replaced").mkdir(parents=True)
    (leftover / ".replaced" / "a").write_text("old")

    def fail() -> None:
        with replacing(path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert leftover.exists()
    for file in (*leftover.rglob("*"), leftover):
        os.utime(file, times=(time.time() - 90_000, time.time() - 90_000))
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (path / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_file_names_can_have_the_longest_length(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".h5ad")
    with replacing(path) as temporary:
        temporary.write_text("a")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_temporary_folder_removed_before_locking_is_created_again(
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
def test_a_folder_without_write_access_is_an_error_with_its_path() -> None:
    message = "/proc/labels cannot be written: /proc takes no new files. Name another path."
    with pytest.raises(ConfigError, match=f"^{message}$"), replacing(Path("/proc/labels")):
        pass

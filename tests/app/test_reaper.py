"""A folder is removed once the process that owns it is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spikgpt.app import reaper


def test_the_folder_is_removed_at_the_end_of_the_input(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "cells.h5ad").write_bytes(b"cells")
    program = [sys.executable, "-I", "-S", str(Path(reaper.__file__)), str(folder)]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert folder.exists()
        # SIGTERM and SIGINT end a server, but not the process that removes its temporary folder.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
    assert not folder.exists()


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reaper.remove(tmp_path / "nothing")
    monkeypatch.setattr(reaper, "ATTEMPTS", 2)
    monkeypatch.setattr(reaper, "PAUSE", 0)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    assert not reaper.remove(tmp_path)

"""The temporary folder of a server is removed when the server ends; uploads get safe file names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from spikgpt.app.folders import PREFIX, remove_leftovers, safe_name, server_folder
from spikgpt.files import lock_folder


def test_the_folder_is_removed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with server_folder() as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "cells.h5ad").write_bytes(b"cells")
        # A second server removes the folders of ended servers only, so this folder stays.
        remove_leftovers(tmp_path)
        assert (folder / "cells.h5ad").exists()
    assert not list(tmp_path.iterdir())


def test_leftovers_of_killed_servers_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}left" / "session").mkdir(parents=True)
    (tmp_path / f"{PREFIX}used").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "other")
    lock = lock_folder(tmp_path / f"{PREFIX}used")
    assert lock is not None
    remove_leftovers(tmp_path)
    os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", f"{PREFIX}link", f"{PREFIX}used"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cells.h5ad", "cells.h5ad"),
        ("My cells (2).csv.gz", "My cells _2_.csv.gz"),
        ("Zellen für uns.h5ad", "Zellen für uns.h5ad"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\cells.h5", "cells.h5"),
        ("<img src=x onerror=alert(1)>.h5ad", "img src_x onerror_alert_1__.h5ad"),
        ("a\u202eda5h.exe", "a_da5h.exe"),
        ("a\x00b\nc.h5ad", "a_b_c.h5ad"),
        (".results", "results"),
        ("--out", "out"),
        ("", "query"),
        ("..", "query"),
        ("\u0627.h5ad", "\u0627.h5ad"),
    ],
)
def test_names_of_uploads_are_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("letter", ["a", "\u4e2d", "\U0001d400"])
def test_long_names_keep_their_endings(letter: str, tmp_path: Path) -> None:
    safe = safe_name(letter * 300 + ".csv.gz")
    assert safe.endswith(".csv.gz")
    (tmp_path / safe).write_bytes(b"")
    assert len(os.fsencode(safe)) <= 200

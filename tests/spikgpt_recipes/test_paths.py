"""Untrusted file names give paths inside a folder, or are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError
from spikgpt_recipes.paths import LONGEST_NAME, check_file_name, path_within, read_regular_file

# Names that leave a folder, are hidden, or have a special meaning on some operating system.
EVIL = (
    *("..", ".", "", "../x", "a/b", "/etc", "a\\b", "C:", "C:x", "~", "~root", ".hidden", "a\0", "a\n", "x\u202e"),
    *("CON", "nul", "com1", "Lpt9.txt", "aux.csv.gz", "a.", "a ", "x" * (LONGEST_NAME + 1), "\ud800", "*", "a?"),
)


@pytest.mark.parametrize("name", EVIL)
def test_names_other_than_plain_file_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"accession is .*; expected a plain file name"):
        check_file_name("accession", name, ascii_only=False)


@pytest.mark.parametrize("name", ["GSE84133", "E-MTAB-5061", "a.csv.gz", "console.txt", "_x", "x" * LONGEST_NAME])
def test_plain_names_are_accepted(name: str, tmp_path: Path) -> None:
    check_file_name("accession", name)
    assert path_within(tmp_path, name, "x") == tmp_path / name / "x"


def test_other_alphabets_are_accepted_if_allowed() -> None:
    check_file_name("study", "Müller", ascii_only=False)
    with pytest.raises(ValueError, match="accession is 'Müller'"):
        check_file_name("accession", "Müller")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/", "a\\..", "C:", "a\0"])
def test_paths_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the name of a file in"):
        path_within(tmp_path, "x", name)


def test_links_that_leave_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "cache")
    (tmp_path / "cache" / "GSE1").symlink_to(tmp_path)
    assert path_within(tmp_path / "linked", "GSE2") == tmp_path / "linked" / "GSE2"
    with pytest.raises(ConfigError, match="is a link that leaves"):
        path_within(tmp_path / "linked", "GSE1", "Makefile")
    assert path_within(tmp_path / "linked", "GSE1", "Makefile", links=True).parent.name == "GSE1"


@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "device", "folder", "large"])
def test_links_special_files_and_large_files_are_refused(kind: str, tmp_path: Path) -> None:
    path, largest = tmp_path / "card.md", 10
    if kind == "link":
        (tmp_path / "secret").write_text("secret")
        path.symlink_to(tmp_path / "secret")
    elif kind == "loop":
        path.symlink_to(path.name)
        assert path_within(tmp_path, path.name) == path
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(bytes(largest + 1))
    with pytest.raises(ConfigError, match="a link|not a regular file|more than 10 bytes"):
        read_regular_file(path, largest)


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_bytes(b"a\r\n")
    assert read_regular_file(tmp_path / "card.md", 10) == b"a\r\n"
    (tmp_path / "link").symlink_to(tmp_path / "card.md")
    assert read_regular_file(tmp_path / "link", 10, links=True) == b"a\r\n"

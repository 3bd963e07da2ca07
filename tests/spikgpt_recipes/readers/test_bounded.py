"""Files and archive members are read as streams; errors name the damaged line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from spikgpt.errors import DataError
from spikgpt_recipes.readers import bounded
from spikgpt_recipes.readers.archives import open_archive
from spikgpt_recipes.readers.bounded import BoundedFile
from tests.spikgpt_recipes.study_files import packed, tar, zipped

LINES = b"one\r\n\ntwo\nthree"


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [LINES, packed(LINES), packed(LINES[:5]) + packed(LINES[5:])])
def test_line_numbers_start_at_one_and_count_empty_lines(content: bytes, tmp_path: Path) -> None:
    assert list(BoundedFile.from_path(written(tmp_path, content)).lines()) == [(1, b"one"), (3, b"two"), (4, b"three")]


@pytest.mark.parametrize("make", [tar, lambda members: tar(members, "w:gz"), zipped])
def test_members_are_read_in_any_order(make: object, tmp_path: Path) -> None:
    assert callable(make)
    path = written(tmp_path, make({"./a/one.txt": LINES, "two.txt.gz": packed(LINES)}))
    with open_archive(path) as members:
        assert sorted(members) == ["a/one.txt", "two.txt.gz"]
        for name in ("two.txt.gz", "a/one.txt", "two.txt.gz"):
            assert [line for _, line in members[name].lines()] == [b"one", b"two", b"three"]
            assert members[name].title == f"{path}, {name}"
    assert list(tmp_path.iterdir()) == [path]


def test_links_in_an_archive_are_ignored(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            link = tarfile.TarInfo(f"link {kind!r}")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    with open_archive(written(tmp_path, file.getvalue())) as members:
        assert members == {}


def test_an_archive_truncated_between_members_is_refused(tmp_path: Path) -> None:
    content = tar({"one": bytes(512), "two": bytes(512)})
    for length in (2048, 1024 + 100):
        path = written(tmp_path, content[:length])
        with pytest.raises(DataError, match="file cannot be read: it ends without the mark of its end. It is damaged"):
            open_archive(path).__enter__()
    with open_archive(written(tmp_path, content[: 2048 + 512])) as members:
        assert len(members) == 2


@pytest.mark.parametrize("content", [b"", b"text", tar({"one": bytes(5000)})[:3000], zipped({"one": b"1"})[:-5]])
def test_files_other_than_archives_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file cannot be read: .*It is damaged or incomplete: delete it and"):
        open_archive(written(tmp_path, content)).__enter__()


def test_errors_name_the_damaged_line(tmp_path: Path) -> None:
    text = b"".join(b"%d\n" % line for line in range(20_000))
    content = packed(text)
    for damaged in (content[:-9_000], content[:-8] + bytes(8)):
        with pytest.raises(DataError, match=r"file, line \d+, cannot be read: .*delete it and download it again"):
            list(BoundedFile.from_path(written(tmp_path, damaged)).lines())


def test_a_line_above_the_length_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LONGEST_LINE", 1000)
    with pytest.raises(DataError, match="has a line of more than 1000 bytes"):
        list(BoundedFile.from_path(written(tmp_path, packed(b"short\n" + bytes(2000)))).lines())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none cannot be read: .*The path does not exist: check its spelling"):
        BoundedFile.from_path(tmp_path / "none")


@pytest.mark.parametrize("line", [b"\n", b"0\n"])
def test_files_with_too_many_lines_are_refused(line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed(line * 5000)
    monkeypatch.setattr(bounded, "ALWAYS_LINES", 10)
    with pytest.raises(
        DataError, match=rf"line {11 + len(content)}, is one too many for a file of {len(content)} bytes"
    ):
        list(BoundedFile.from_path(written(tmp_path, content)).lines())
    assert len(list(BoundedFile.from_path(written(tmp_path, b"0\n" * 5000)).lines())) == 5000

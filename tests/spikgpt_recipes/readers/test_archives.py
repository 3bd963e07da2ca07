"""Untrusted archives: limits on the number and size of members; compressed archives are read in one pass."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from spikgpt.errors import DataError
from spikgpt_recipes.readers import archives, bounded
from spikgpt_recipes.readers.archives import open_archive
from tests.spikgpt_recipes.study_files import packed, tar, zipped


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def sparse(size: int) -> bytes:
    """Return a GNU tar archive of one sparse file with a stated size."""
    member = tarfile.TarInfo("a.csv")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    # Write the map of a sparse file with one empty block, and the stated size in base 256.
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 0
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def with_header(content: bytes) -> bytes:
    """Return an archive with a pax header of the given content before the member."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    return header.tobuf() + content + bytes(-len(content) % 512) + tar({"a": b""})


def read_all(path: Path) -> int:
    with open_archive(path) as members:
        return sum(len(list(item.lines())) for item in members.values())


def test_a_sparse_member_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = written(tmp_path, sparse(8 * 1024**4))
    with open_archive(path) as members:
        assert members["a.csv"].size <= path.stat().st_size
    with pytest.raises(
        DataError, match=r"file, a\.csv cannot be read: a sparse file; pack the archive without --sparse"
    ):
        read_all(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tar({str(number): b"" for number in range(20)}),
        lambda: tar({str(number): b"" for number in range(20)}, "w:gz"),
        lambda: zipped({str(number): b"" for number in range(20)}),
    ],
)
def test_archives_with_too_many_members_are_refused(
    make: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, make())
    assert read_all(path) == 0
    monkeypatch.setattr(archives, "MOST_MEMBERS", 10)
    with pytest.raises(DataError, match="it has more than 10 members"):
        read_all(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_unpacked_once_and_within_limits(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, tar({f"{number}": b"x\n" * 10 for number in range(5)}, mode))
    begins, real = list[object](), archives.copy_bounded

    def counted(source: IO[bytes], target: IO[bytes], largest: int, name: object) -> None:
        begins.append(name)
        real(source, target, largest, name)

    monkeypatch.setattr(archives, "copy_bounded", counted)
    with open_archive(path) as members:
        assert [len(list(members[name].lines())) for name in sorted(members, reverse=True)] == [10] * 5
    assert len(begins) == 1
    monkeypatch.setattr(bounded, "ALWAYS_UNPACKED", 0)
    path.write_bytes(tar({"zeros": bytes(2**22)}, mode))
    with pytest.raises(DataError, match=r"file unpacks to more than \d+ bytes, too many"):
        read_all(path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    path.write_bytes(tar({"a": b"x"}, mode))
    with pytest.raises(DataError, match="all the free space. Free some, or set TMPDIR"):
        read_all(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda content: tar({"a": content}),
        lambda content: zipped({"a": content}),
        lambda content: tar({"a": content}, "w:gz"),
    ],
)
def test_a_compressed_member_is_limited_by_its_compressed_size(
    make: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "ALWAYS_UNPACKED", 2**20)
    monkeypatch.setattr(bounded, "LARGEST_RATIO", 50)
    path = written(tmp_path, make(packed((b"0" * 1023 + b"\n") * 2**13)))
    with pytest.raises(DataError, match=r"file, a(, line \d+,)?.* unpacks to more than \d+ bytes"):
        read_all(path)


@pytest.mark.parametrize("content", [bytes(2**20), b"1" * 2000, b"9" * 40_000], ids=["long", "digits", "more digits"])
def test_a_header_that_is_slow_to_parse_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the header of an entry in the tar archive is too long"):
        read_all(written(tmp_path, with_header(content)))


def test_a_zip_archive_inside_a_tar_archive_is_a_member(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inside", b"1")
    with open_archive(written(tmp_path, tar({"a.zip": inner.getvalue()}))) as members:
        assert list(members) == ["a.zip"]

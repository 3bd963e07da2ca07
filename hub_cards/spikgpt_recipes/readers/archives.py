"""Open the members of tar and zip archives as files of limited size."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from spikgpt.cells.storage import as_data_errors
from spikgpt.errors import DataError
from spikgpt_recipes.readers.bounded import DAMAGED, BoundedFile, most_unpacked

# Limits: members of an archive, bytes of one read of a header, and blocks of 512 bytes of a header.
MOST_MEMBERS, LARGEST_HEADER, MOST_BLOCKS = 100_000, 64 * 1024, 1000
# Bytes that are copied at a time.
CHUNK = 1024 * 1024
# First bytes of compressed archives, and the functions that open them.
COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# Name of a member, its packed size, and the function that opens the member.
Member = tuple[str, int, Callable[[], IO[bytes]]]


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, BoundedFile]]:
    """Open a tar or zip archive, and yield its files by name; a name includes the folders in the archive.

    Raises
    ------
    DataError
        When the archive is damaged, or has more members, longer headers or larger members than allowed.
    """
    with ExitStack() as stack:
        with as_data_errors(path, remedy=DAMAGED):
            with path.open("rb") as file:
                start = file.read(6)
            if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                members = _zip_members(stack.enter_context(zipfile.ZipFile(path)))
            else:
                members = _tar_members(_unpacked(path, start, stack), stack)
        # A member may state any size, but cannot be larger than the archive.
        archive_size = path.stat().st_size
        files = {}
        for stated_name, size, open_member in members:
            name = stated_name.removeprefix("./")
            files[name] = BoundedFile(name, f"{path}, {name}", min(size, archive_size), open_member)
        yield files


def copy_bounded(source: IO[bytes], target: IO[bytes], largest: int, title: object) -> None:
    """Copy a stream into a temporary file.

    Raises
    ------
    DataError
        When the stream exceeds ``largest`` bytes or the free disk space.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    copied = 0
    while chunk := source.read(CHUNK):
        copied += len(chunk)
        if copied > largest:
            msg = f"{title} unpacks to more than {largest} bytes, too many for its size. {DAMAGED}"
            raise DataError(msg)
        if copied > free:
            msg = f"{title} unpacks to more than {free} bytes, which is all the free space. Free some, or set TMPDIR."
            raise DataError(msg)
        target.write(chunk)


def _unpacked(path: Path, start: bytes, stack: ExitStack) -> IO[bytes]:
    """Return an open tar archive; unpack a compressed archive to disk first, because seeking back in it is slow."""
    opener = next((opener for magic, opener in COMPRESSIONS.items() if start.startswith(magic)), None)
    if opener is None:
        return stack.enter_context(path.open("rb"))
    archive: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(prefix="spikgpt-"))
    with opener(path) as packed:
        copy_bounded(packed, archive, most_unpacked(path.stat().st_size), path)
    archive.seek(0)
    return archive


class _HeaderGuard:
    """The file of a tar archive, with limits on headers while members are listed; tarfile has no limits."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.blocks, self.listing = file, 0, True

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        if self.listing:
            self.blocks += 1
            # tarfile searches numbers in a header in time quadratic in the number of digits.
            if size > LARGEST_HEADER or self.blocks > MOST_BLOCKS or re.search(rb"\d{100}", content):
                msg = "the header of an entry in the tar archive is too long"
                raise tarfile.ReadError(msg)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self.blocks = 0
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True


def _tar_members(file: IO[bytes], stack: ExitStack) -> list[Member]:
    guard = _HeaderGuard(file)
    archive = stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", guard), mode="r:"))
    members: list[Member] = []
    for number, member in enumerate(archive):
        _check_count(number + 1)
        if member.isfile():
            members.append((member.name, member.size, partial(_open_member, archive, member)))
    # tarfile accepts an archive that is cut between two members or in a header.
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        msg = "it ends without the mark of its end"
        raise tarfile.ReadError(msg)
    guard.listing = False
    return members


def _zip_members(archive: zipfile.ZipFile) -> list[Member]:
    _check_count(len(archive.infolist()))
    files = [member for member in archive.infolist() if not member.is_dir()]
    return [(member.filename, member.compress_size, partial(archive.open, member)) for member in files]


def _check_count(members: int) -> None:
    if members > MOST_MEMBERS:
        msg = f"it has more than {MOST_MEMBERS} members"
        raise tarfile.ReadError(msg)


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    # A sparse file may state terabytes in a few bytes.
    stream = None if member.issparse() else archive.extractfile(member)
    if stream is None:
        msg = "a sparse file; pack the archive without --sparse" if member.issparse() else "no file"
        raise tarfile.ReadError(msg)
    return stream

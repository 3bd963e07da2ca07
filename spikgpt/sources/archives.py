"""Members of tar and zip archives as streams: bounded in number and size, and no name leads anywhere."""

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
from typing import IO, cast

from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError
from spikgpt.sources.streams import DAMAGED, Item, most_unpacked

# Members of an archive, bytes of the header of one, and blocks of 512 bytes of it, at most.
MOST_MEMBERS, LARGEST_HEADER, MOST_BLOCKS = 100_000, 64 * 1024, 1000
# Bytes that are copied at a time.
CHUNK = 1024 * 1024
# How packed archives begin, and what opens them.
PACKED: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": cast("Callable[[Path], IO[bytes]]", gzip.open),
    b"BZh": cast("Callable[[Path], IO[bytes]]", bz2.open),
    b"\xfd7zXZ": cast("Callable[[Path], IO[bytes]]", lzma.open),
}


@contextmanager
def archived(path: Path) -> Iterator[dict[str, Item]]:
    """Open a tar or a zip archive and give its members by name, with their folders; only files are.

    A packed tar archive is unpacked into a temporary file, once: to go back in a packed one is to read it again.
    """
    with ExitStack() as stack:
        with refusing(path, why=DAMAGED):
            with path.open("rb") as file:
                begin = file.read(6)
            if begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                found = _zipped(stack.enter_context(zipfile.ZipFile(path)))
            else:
                archive: IO[bytes] = stack.enter_context(path.open("rb"))
                if opens := next((opens for magic, opens in PACKED.items() if begin.startswith(magic)), None):
                    archive = stack.enter_context(tempfile.TemporaryFile(prefix="spikgpt-"))
                    with opens(path) as packed:
                        copy(packed, archive, most_unpacked(path.stat().st_size), path)
                    archive.seek(0)
                found = _tarred(archive, stack)
        items = {}
        for name, size, stored in found:
            short = name.removeprefix("./")
            # A member may state any size, and holds no more than the archive.
            items[short] = Item(short, f"{path}, {short}", min(size, path.stat().st_size), stored)
        yield items


def copy(source: IO[bytes], target: IO[bytes], largest: int, name: object) -> None:
    """Copy a stream into a temporary file, at most ``largest`` bytes and what the disk has room for.

    Raises
    ------
    DataError
        When there is more.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    copied = 0
    while chunk := source.read(CHUNK):
        copied += len(chunk)
        if copied > largest:
            msg = f"{name} unpacks to more than {largest} bytes, which no file of its size does. {DAMAGED}"
            raise DataError(msg)
        if copied > free:
            msg = f"{name} unpacks to more than {free} bytes, which is all that is free. Make room, or set TMPDIR."
            raise DataError(msg)
        target.write(chunk)


class _Guarded:
    """The file of a tar archive; while members are listed, headers have bounds that tarfile does not know."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.blocks, self.listing = file, 0, True

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        if self.listing:
            self.blocks += 1
            # tarfile looks for a number in every digit of a header, which takes the square of their count.
            if size > LARGEST_HEADER or self.blocks > MOST_BLOCKS or re.search(rb"\d{100}", content):
                msg = "the header of a member is too long"
                raise tarfile.ReadError(msg)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self.blocks = 0
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True


def _tarred(file: IO[bytes], stack: ExitStack) -> list[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Return the name, the size and the opener of each file in a tar archive."""
    guarded = _Guarded(file)
    archive = stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", guarded), mode="r:"))
    members = []
    for number, member in enumerate(archive):
        if number == MOST_MEMBERS:
            _refuse_members()
        if member.isfile():
            members.append(member)
    _check_end(archive)
    guarded.listing = False
    return [(one.name, one.size, partial(_extracted, archive, one)) for one in members]


def _zipped(archive: zipfile.ZipFile) -> list[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Return the name, the packed size and the opener of each file in a zip archive."""
    if len(archive.infolist()) > MOST_MEMBERS:
        _refuse_members()
    files = [one for one in archive.infolist() if not one.is_dir()]
    return [(one.filename, one.compress_size, partial(archive.open, one)) for one in files]


def _refuse_members() -> None:
    msg = f"it has more than {MOST_MEMBERS} members"
    raise tarfile.ReadError(msg)


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse an archive that was cut between two members, or in the header of one, which nothing else would tell."""
    assert archive.fileobj
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        msg = "it ends without the mark of its end"
        raise tarfile.ReadError(msg)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    # A few bytes may state that a sparse file has terabytes.
    stream = None if member.issparse() else archive.extractfile(member)
    if stream is None:
        msg = "a sparse file; pack the archive without --sparse" if member.issparse() else "no file"
        raise tarfile.ReadError(msg)
    return stream

"""Files and members of archives as streams: nothing is unpacked to the disk, and no name leads anywhere."""

from __future__ import annotations

import csv
import gzip
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError

# Bytes of a line at most: a million cells' values.
LONGEST_LINE = 64 * 1024 * 1024
DAMAGED = "It is damaged or incomplete: delete it and download it again."


@dataclass(frozen=True)
class Item:
    """A file, which lies at ``path``, or a member of an archive; ``title`` is what messages call it."""

    name: str
    title: str
    size: int
    stored: Callable[[], AbstractContextManager[IO[bytes]]]
    path: Path | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open it from its begin, without its compression."""
        with refusing(self.title, why=DAMAGED):
            opening = self.stored()
        with opening as stream:
            with refusing(self.title, why=DAMAGED):
                packed = stream.read(2) == b"\x1f\x8b"
                stream.seek(0)
            yield cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if packed else stream

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Give the lines that are not empty, without their ends, and their numbers from 1."""
        with self.open() as stream:
            number = 0
            while True:
                number += 1
                try:
                    line = stream.readline(LONGEST_LINE)
                except Exception:
                    with refusing(f"{self.title}, line {number},", why=DAMAGED):
                        raise
                if not line:
                    return
                if len(line) == LONGEST_LINE:
                    raise self.wrong(number, f"is longer than {LONGEST_LINE} bytes; expected a table of text")
                if line := line.rstrip(b"\r\n"):
                    yield number, line

    def fields(self, number: int, line: bytes, delimiter: str) -> list[str]:
        """Return the columns of a line, without quotes."""
        try:
            return next(csv.reader([line.decode(errors="replace")], delimiter=delimiter), [])
        except csv.Error as error:
            raise self.wrong(number, f"is no line of a table ({error}). {DAMAGED.rstrip('.')}") from error

    def wrong(self, line: int, what: str) -> DataError:
        """Return an error about a line."""
        return DataError(f"{self.title}, line {line}, {what}.")


def item_of(path: Path) -> Item:
    """Return a file."""
    with refusing(path):
        return Item(path.name, str(path), path.stat().st_size, lambda: path.open("rb"), path)


@contextmanager
def archived(path: Path) -> Iterator[dict[str, Item]]:
    """Open a tar or a zip archive and give its members by name, with their folders; only files are."""
    items: dict[str, Item] = {}
    with refusing(path, why=DAMAGED):
        archive = zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path)
    with archive:
        with refusing(path, why=DAMAGED):
            if isinstance(archive, zipfile.ZipFile):
                found = [
                    (one.filename, one.compress_size, partial(archive.open, one))
                    for one in archive.infolist()
                    if not one.is_dir()
                ]
            else:
                members = [one for one in archive.getmembers() if one.isfile()]
                _check_end(archive)
                found = [(one.name, one.size, partial(_extracted, archive, one)) for one in members]
        for name, size, stored in found:
            short = name.removeprefix("./")
            items[short] = Item(short, f"{path}, {short}", size, stored)
        yield items


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse an archive that was cut between two members, or in the header of one, which nothing else would tell."""
    assert archive.fileobj
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        msg = "it ends without the mark of its end"
        raise tarfile.ReadError(msg)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        msg = "no file"
        raise tarfile.ReadError(msg)
    return stream

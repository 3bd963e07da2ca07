"""Bounded streams of text and gzip files: lines and unpacked sizes have limits."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from spikgpt.cells.storage import most_bytes
from spikgpt.errors import DataError

# Largest number of characters in a line: enough for the values of a gene in ten million cells.
LONGEST_LINE = 64 * 1024 * 1024
# Largest number of consecutive empty lines.
MOST_EMPTY = 10_000
GZIP = b"\x1f\x8b"
ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
CUT_OFF = "Copy or download the file again: it ends too early, or its middle is damaged."


class BoundedStream(io.RawIOBase):
    """An unpacked stream that raises DataError after more than ``most`` bytes."""

    def __init__(self, stream: IO[bytes], most: int, name: object) -> None:
        self._stream, self._most, self._name, self._read = stream, most, name, 0

    def readable(self) -> bool:
        """Return True, because the stream can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer with unpacked bytes, and return the number of these bytes."""
        try:
            part = self._stream.read(len(buffer))
        except (OSError, EOFError) as error:
            msg = f"{self._name} cannot be unpacked: {error}. {CUT_OFF}"
            raise DataError(msg) from None
        buffer[: len(part)] = part
        self._read += len(part)
        if self._read > self._most:
            msg = (
                f"{self._name} unpacks to more than {self._most} bytes, which no file of cells of its size does. "
                "Unpack it yourself if you trust it, and give the unpacked file."
            )
            raise DataError(msg)
        return len(part)


def is_gzip(path: Path) -> bool:
    """Return True if a file is packed with gzip."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


@contextmanager
def open_unpacked(path: Path, name: object = None, *, most: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file for reading, and unpack it on the fly if it is packed with gzip; messages call the file ``name``.

    Parameters
    ----------
    most
        Largest number of unpacked bytes; by default :func:`spikgpt.cells.storage.most_bytes` of the packed size.
    """
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        size = path.stat().st_size
        with gzip.GzipFile(fileobj=file) as stream:
            bounded = BoundedStream(cast(IO[bytes], stream), most_bytes(size) if most is None else most, name or path)
            yield cast(IO[bytes], io.BufferedReader(bounded, 1 << 20))


def unpack(path: Path, target: Path) -> None:
    """Unpack a gzip file to ``target``; raise DataError if it needs more than the free disk space."""
    free = shutil.disk_usage(target.parent).free
    most = most_bytes(path.stat().st_size)
    with open_unpacked(path, most=min(most, free)) as stream, target.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)


def first_bytes(path: Path, count: int = 4096) -> bytes:
    """Return the first bytes of a file, after unpacking gzip."""
    with open_unpacked(path) as stream:
        return stream.read(count)


def text_lines(path: Path, name: object = None) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not empty.

    The text may be UTF-8, UTF-16 with a byte order mark, or Latin-1, with the line ends of any system.

    Raises
    ------
    DataError
        When a line or the unpacked text is too long.
    """
    with open_unpacked(path, name) as stream:
        mark = first_bytes(path, 3)
        encoding = next((value for key, value in ENCODINGS.items() if mark.startswith(key)), "utf-8")
        text = io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=None)
        number = empty = 0
        while line := text.readline(LONGEST_LINE):
            number += 1
            if len(line) >= LONGEST_LINE:
                msg = f"{name or path}, line {number}, is longer than {LONGEST_LINE} characters; expected a text table."
                raise DataError(msg)
            line, empty = line.rstrip("\n"), empty + 1
            if line and not line.isspace():
                empty = 0
                yield number, line if line.isascii() else _decoded(line)
            elif empty > MOST_EMPTY:
                msg = f"{name or path} has more than {MOST_EMPTY} empty lines up to line {number}; expected a table."
                raise DataError(msg)
        text.detach()


def _decoded(line: str) -> str:
    """Return a line of text, decoded as Latin-1 if its bytes are not UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode(errors="surrogateescape").decode("latin-1")
    return line

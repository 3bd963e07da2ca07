"""Files and members of archives as streams, whose lines and unpacked bytes have bounds."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from spikgpt.cells.storage import refusing
from spikgpt.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Bytes of a line at most: a million cells' values.
LONGEST_LINE = 64 * 1024 * 1024
# Bytes that a file may unpack to in any case, and per packed byte: a table of which 0.5% is not 0 has 170.
ALWAYS_UNPACKED, LARGEST_RATIO = 64 * 1024 * 1024, 250
# Lines of a file in any case; each packed byte may hold one more.
ALWAYS_LINES = 1_000_000
# Bytes that are read at a time.
BUFFER = 256 * 1024
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
    def open(self, *, longest_line: int | None = None, largest: int | None = None) -> Iterator[IO[bytes]]:
        """Open it from its begin, without its compression.

        To read more than ``largest`` bytes, or what a file of its size may unpack to, is a DataError; so is a line of
        more than ``longest_line`` bytes.
        """
        limit = most_unpacked(self.size) if largest is None else min(largest, most_unpacked(self.size))
        with refusing(self.title, why=DAMAGED):
            opening = self.stored()
        with opening as stream:
            with refusing(self.title, why=DAMAGED):
                packed = stream.read(2) == b"\x1f\x8b"
                stream.seek(0)
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if packed else stream
            with io.BufferedReader(_Bounded(plain, self.title, limit, longest_line), BUFFER) as bounded:
                yield bounded

    def packed(self) -> bool:
        """Tell whether it is packed with gzip."""
        with refusing(self.title, why=DAMAGED), self.stored() as stream:
            return stream.read(2) == b"\x1f\x8b"

    def lines(self, longest: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Give the lines that are not empty, without their ends, and their numbers from 1."""
        longest = LONGEST_LINE if longest is None else longest
        with self.open() as stream:
            number = 0
            while True:
                number += 1
                try:
                    line = stream.readline(longest)
                except Exception:
                    with refusing(f"{self.title}, line {number},", why=DAMAGED):
                        raise
                if not line:
                    return
                if number > most_lines(self.size):
                    raise self.wrong(number, f"is one too many for a file of {self.size} bytes. {DAMAGED[:-1]}")
                if len(line) == longest:
                    raise self.wrong(number, f"is longer than {longest} bytes; expected a table of text")
                if line := line.rstrip(b"\r\n"):
                    yield number, line

    def fields(self, number: int, line: bytes, delimiter: str) -> list[str]:
        """Return the columns of a line, without quotes."""
        try:
            return next(csv.reader([line.decode(errors="replace")], delimiter=delimiter), [])
        except csv.Error as error:
            raise self.wrong(number, f"is no line of a table ({error}). {DAMAGED.rstrip('.')}") from None

    def wrong(self, line: int, what: str) -> DataError:
        """Return an error about a line."""
        return DataError(f"{self.title}, line {line}, {what}.")


class _Bounded(io.RawIOBase):
    """A stream of at most so many bytes, whose lines have at most so many."""

    def __init__(self, stream: IO[bytes], title: str, limit: int, longest_line: int | None) -> None:
        super().__init__()
        self.stream, self.title, self.limit, self.longest_line = stream, title, limit, longest_line
        self.count, self.line = 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if (offset, whence) == (0, io.SEEK_CUR):
            return self.count
        if (offset, whence) != (0, io.SEEK_SET):
            msg = "only back to the begin"
            raise io.UnsupportedOperation(msg)
        self.count = self.line = 0
        return self.stream.seek(0)

    def readinto(self, buffer: WriteableBuffer) -> int:
        content = self.stream.read(len(memoryview(buffer)))
        memoryview(buffer)[: len(content)] = content
        self.count += len(content)
        if self.count > self.limit:
            msg = f"{self.title} unpacks to more than {self.limit} bytes, too much for what it is. {DAMAGED}"
            raise DataError(msg)
        if self.longest_line is not None:
            last = content.rfind(b"\n")
            self.line = self.line + len(content) if last < 0 else len(content) - last - 1
            if self.line > self.longest_line:
                msg = f"{self.title} has a line of more than {self.longest_line} bytes; expected a table of text."
                raise DataError(msg)
        return len(content)


def most_unpacked(packed: int) -> int:
    """Return how many bytes a file of so many may unpack to."""
    return ALWAYS_UNPACKED + LARGEST_RATIO * packed


def most_lines(packed: int) -> int:
    """Return how many lines a file of so many bytes may have: to look at each takes time, however short it is."""
    return ALWAYS_LINES + packed


def item_of(path: Path) -> Item:
    """Return a file."""
    with refusing(path):
        return Item(path.name, str(path), path.stat().st_size, lambda: path.open("rb"), path)

"""Files and members of archives with limits on the length of a line and on the unpacked size."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from spikgpt.cells.storage import as_data_errors
from spikgpt.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Largest line in bytes; the values of a million cells fit.
LONGEST_LINE = 64 * 1024 * 1024
# Largest unpacked size: bytes allowed for any file, plus bytes for each packed byte. A table with 0.5% nonzero values
# unpacks to 170 bytes for each packed byte.
ALWAYS_UNPACKED, LARGEST_RATIO = 64 * 1024 * 1024, 250
# Number of lines allowed for any file. Each packed byte allows one more line.
ALWAYS_LINES = 1_000_000
# Bytes that are read at a time.
BUFFER = 256 * 1024
DAMAGED = "It is damaged or incomplete: delete it and download it again."


@dataclass(frozen=True)
class BoundedFile:
    """A file at ``path``, or a member of an archive.

    Parameters
    ----------
    title
        Name of the file in messages.
    size
        Packed size in bytes.
    open_packed
        Function that opens the file without unpacking it.
    """

    name: str
    title: str
    size: int
    open_packed: Callable[[], AbstractContextManager[IO[bytes]]]
    path: Path | None = None

    @classmethod
    def from_path(cls, path: Path) -> BoundedFile:
        """Return the bounded file of a path on disk."""
        with as_data_errors(path):
            return cls(path.name, str(path), path.stat().st_size, lambda: path.open("rb"), path)

    @contextmanager
    def open(self, *, longest_line: int | None = None, largest: int | None = None) -> Iterator[IO[bytes]]:
        """Open the unpacked file.

        Reading more than ``largest`` bytes, more than :func:`most_unpacked` allows, or a line of more than
        ``longest_line`` bytes raises a DataError.
        """
        limit = most_unpacked(self.size) if largest is None else min(largest, most_unpacked(self.size))
        with as_data_errors(self.title, remedy=DAMAGED):
            opened = self.open_packed()
        with opened as stream:
            with as_data_errors(self.title, remedy=DAMAGED):
                packed = _is_gzip(stream)
                stream.seek(0)
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if packed else stream
            with io.BufferedReader(_BoundedStream(plain, self.title, limit, longest_line), BUFFER) as bounded:
                yield bounded

    def is_gzip(self) -> bool:
        """Return whether the file is gzipped."""
        with as_data_errors(self.title, remedy=DAMAGED), self.open_packed() as stream:
            return _is_gzip(stream)

    def lines(self, longest: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the number, from 1, and the content of each line that is not empty."""
        with self.open(longest_line=longest or LONGEST_LINE) as stream:
            for number in itertools.count(1):
                try:
                    line = stream.readline()
                except Exception:
                    with as_data_errors(f"{self.title}, line {number},", remedy=DAMAGED):
                        raise
                if not line:
                    return
                if number > most_lines(self.size):
                    raise self.line_error(number, f"is one too many for a file of {self.size} bytes. {DAMAGED[:-1]}")
                if line := line.rstrip(b"\r\n"):
                    yield number, line

    def split(self, number: int, line: bytes, delimiter: str) -> list[str]:
        """Return the columns of a line without quotes."""
        try:
            return next(csv.reader([line.decode(errors="replace")], delimiter=delimiter), [])
        except csv.Error as error:
            raise self.line_error(number, f"is no line of a table ({error}). {DAMAGED[:-1]}") from None

    def line_error(self, number: int, problem: str) -> DataError:
        """Return an error about a line."""
        return DataError(f"{self.title}, line {number}, {problem}.")


class _BoundedStream(io.RawIOBase):
    """A stream that raises a DataError after more than ``limit`` bytes, or ``longest_line`` bytes of a line."""

    def __init__(self, stream: IO[bytes], title: str, limit: int, longest_line: int | None) -> None:
        super().__init__()
        self.stream, self.title, self.limit, self.longest_line = stream, title, limit, longest_line
        self.count, self.line_length = 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        content = self.stream.read(len(memoryview(buffer)))
        memoryview(buffer)[: len(content)] = content
        self.count += len(content)
        if self.count > self.limit:
            msg = f"{self.title} unpacks to more than {self.limit} bytes, too many for its size. {DAMAGED}"
            raise DataError(msg)
        if self.longest_line is not None:
            after_line = len(content) - content.rfind(b"\n") - 1
            self.line_length = after_line if after_line < len(content) else self.line_length + len(content)
            if self.line_length > self.longest_line:
                msg = f"{self.title} has a line of more than {self.longest_line} bytes; expected a text table."
                raise DataError(msg)
        return len(content)


def most_unpacked(packed: int) -> int:
    """Return the largest unpacked size, in bytes, that is allowed for a file of ``packed`` bytes."""
    return ALWAYS_UNPACKED + LARGEST_RATIO * packed


def most_lines(packed: int) -> int:
    """Return the largest number of lines of a file of ``packed`` bytes, with empty lines, as each takes time."""
    return ALWAYS_LINES + packed


def _is_gzip(stream: IO[bytes]) -> bool:
    return stream.read(2) == b"\x1f\x8b"

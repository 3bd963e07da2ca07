"""Standard streams that raise no errors, and signals that end a command like Ctrl-C."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

# Signals within this many seconds count as one: a shell and the system both send SIGHUP.
ONE_SIGNAL = 5.0


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end; ``number`` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class RawStream(io.RawIOBase):
    """Bytes of a standard stream. The first error is kept in ``error``, and later bytes are dropped."""

    def __init__(self, raw: Any, descriptor: int) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._raw, self._descriptor = raw, descriptor

    def writable(self) -> bool:
        """Return True: the stream accepts bytes."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._raw is not None and bool(self._raw.isatty())

    def write(self, content: Any) -> int:
        """Write or drop bytes, and return their number."""
        size = len(memoryview(content).cast("B"))
        if self.error is None and self._raw is None:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.error is not None:
            return size
        try:
            return size if (written := self._raw.write(content)) is None else int(written)
        except OSError as error:
            self.error = error
            return size


@contextmanager
def standard_streams() -> Iterator[RawStream | None]:
    """Replace standard output and standard error by streams that accept any text, even when closed, full or broken.

    Yields the bytes of standard output as a :class:`RawStream`; None for a stream in memory.
    """
    _open_closed_descriptors()
    old = sys.stdout, sys.stderr
    (sys.stdout, out), (sys.stderr, _) = (_tolerant(stream, number) for stream, number in zip(old, (1, 2), strict=True))
    try:
        yield out
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError):  # the command has closed the stream
                stream.flush()
        sys.stdout, sys.stderr = old


def _tolerant(stream: TextIO | None, descriptor: int) -> tuple[TextIO, RawStream | None]:
    """Return a text stream that raises no errors, and the stream of its bytes; None for a stream in memory."""
    buffer: Any = getattr(stream, "buffer", None)
    try:
        if stream is not None:
            descriptor = stream.fileno()
    except (OSError, ValueError):
        # Notebooks and tests have streams in memory.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        return stream, None  # type: ignore[return-value]
    if stream is not None and buffer is None:
        return stream, None
    if stream is not None:
        stream.flush()
    raw = RawStream(getattr(buffer, "raw", buffer), descriptor)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=stream is None or descriptor == 2 or stream.isatty(),
    )
    return text, raw


def _open_closed_descriptors() -> None:
    """Open the null device as each closed standard stream: no other file may get descriptor 0, 1 or 2."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Raise :class:`Terminated` at SIGTERM and SIGHUP, unless they are ignored, as under nohup."""
    last = 0.0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if last and now - last < ONE_SIGNAL:
            return
        last = now
        raise Terminated(number)

    old = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # handlers can be set in the main thread only
                old[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

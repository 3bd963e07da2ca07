"""Standard streams that never end a command, and signals that end it in order."""

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

# Repeated signals within so many seconds are one: a shell and the system both send SIGHUP.
ONE_SIGNAL = 5.0


class Terminated(KeyboardInterrupt):
    """The system asked the process to end, by a signal of this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Streams:
    """Standard output and standard error, with what kept them from being written."""

    def __init__(self, out: RawStream | None, err: RawStream | None) -> None:
        self._out, self._err = out, err

    @property
    def error(self) -> OSError | None:
        """What kept standard output from being written, or None."""
        return self._out.error if self._out else None


class RawStream(io.RawIOBase):
    """Bytes to a standard stream; the first error is kept, and what is written after it is dropped."""

    def __init__(self, raw: Any, descriptor: int) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._raw, self._descriptor = raw, descriptor

    def writable(self) -> bool:
        """Return that bytes can be written."""
        return True

    def fileno(self) -> int:
        """Return the number of the stream."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._raw is not None and bool(self._raw.isatty())

    def write(self, content: Any) -> int:
        """Write bytes, or drop them, and return their number."""
        size = len(memoryview(content).cast("B"))
        if self.error is not None:
            return size
        if self._raw is None:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
            return size
        try:
            return size if (written := self._raw.write(content)) is None else int(written)
        except OSError as error:
            self.error = error
            return size


@contextmanager
def standard_streams() -> Iterator[Streams]:
    """Let standard output and standard error take any text, and go on where they are closed, full or broken."""
    _fill_descriptors()
    old = sys.stdout, sys.stderr
    streams = []
    for name, stream, descriptor in zip(("stdout", "stderr"), old, (1, 2), strict=True):
        text, raw = _safe(stream, descriptor)
        setattr(sys, name, text)
        streams.append(raw)
    try:
        yield Streams(*streams)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError):  # it was closed meanwhile
                stream.flush()
        sys.stdout, sys.stderr = old


def _safe(stream: TextIO | None, descriptor: int) -> tuple[TextIO, RawStream | None]:
    """Return a stream for any text that raises no error, and what keeps the error."""
    buffer: Any = getattr(stream, "buffer", None)
    try:
        if stream is not None:
            descriptor = stream.fileno()
    except (OSError, ValueError):
        # A stream in memory, as of a notebook or a test.
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


def _fill_descriptors() -> None:
    """Open the null device for closed standard streams, so that no file gets descriptor 0, 1 or 2."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, unless they are ignored, as under nohup."""
    first = 0.0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first and now - first < ONE_SIGNAL:
            return
        first = now
        raise Terminated(number)

    old = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # only the main thread may
                old[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

"""Progress bars of steps on all cells of a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeAlias

from tqdm import tqdm

# Function that is called with the name of a step, the number of finished cells, and the number of all cells or None.
Listener: TypeAlias = Callable[[str, int, int | None], None]
# Setting of :func:`showing`; outside of this context manager, steps show no progress bar.
_SHOWN: ContextVar[bool | None] = ContextVar("progress", default=False)
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def showing(progress: bool | None) -> Iterator[None]:
    """Show progress bars of the steps within this context; with ``progress`` None, show bars only on a terminal."""
    token = _SHOWN.set(progress)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def reporting(listener: Listener) -> Iterator[None]:
    """Report the progress of the steps within this context to a function instead of showing a bar."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def progress_bar(task: str, cells: int | None, progress: bool | None) -> Any:
    """Return a progress bar of cells on standard error; with ``progress`` None it is shown only on a terminal."""
    if (listener := _LISTENER.get()) is not None:
        return _Report(task, cells, listener)
    return tqdm(desc=task, total=cells, unit=" cells", disable=None if progress is None else not progress)


def inner_bar(task: str, cells: int) -> Any:
    """Return a progress bar that is shown if :func:`showing` asks for bars."""
    return progress_bar(task, cells, _SHOWN.get())


class _Report:
    """Object with the methods of a progress bar that reports to a function."""

    def __init__(self, task: str, total: int | None, listener: Listener) -> None:
        self.task, self.total, self.done, self._listener = task, total, 0, listener
        self.update(0)

    def update(self, cells: int = 1) -> None:
        """Add finished cells, and report the number of all finished cells."""
        self.done += cells
        self._listener(self.task, self.done, self.total)

    def __enter__(self) -> _Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing at the end of a step."""

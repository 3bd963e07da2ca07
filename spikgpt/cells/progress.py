"""Progress bars of steps on all cells of a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeAlias

from tqdm import tqdm

# Called with the name of a step, the number of cells that are done, and that of all cells if it is known.
Listener: TypeAlias = Callable[[str, int, int | None], None]
# Setting of :func:`showing`; without that context, steps show no bar.
_SHOWN: ContextVar[bool | None] = ContextVar("progress", default=False)
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def showing(progress: bool | None) -> Iterator[None]:
    """Let the steps within show a progress bar; None for only on a terminal."""
    token = _SHOWN.set(progress)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def reporting(listener: Listener) -> Iterator[None]:
    """Report the progress of the steps within to a function instead of a bar."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def progress_bar(task: str, cells: int | None, progress: bool | None) -> Any:
    """Return a bar on standard error with cells and time left; with ``progress`` None it shows only on a terminal."""
    if (listener := _LISTENER.get()) is not None:
        return _Report(task, cells, listener)
    return tqdm(desc=task, total=cells, unit=" cells", disable=None if progress is None else not progress)


def inner_bar(task: str, cells: int) -> Any:
    """Return a progress bar that is shown if :func:`showing` asks for bars."""
    return progress_bar(task, cells, _SHOWN.get())


class _Report:
    """Stand-in for a progress bar that reports to a listener."""

    def __init__(self, task: str, total: int | None, listener: Listener) -> None:
        self.task, self.total, self.done, self._listener = task, total, 0, listener
        self.update(0)

    def update(self, cells: int = 1) -> None:
        """Count further cells."""
        self.done += cells
        self._listener(self.task, self.done, self.total)

    def __enter__(self) -> _Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the step."""

"""Progress bars of steps on all cells of a query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

# Setting for steps that are not told; they show no bar by default.
_SHOWN: ContextVar[bool | None] = ContextVar("progress", default=False)


@contextmanager
def showing(progress: bool | None) -> Iterator[None]:
    """Let the steps within show a progress bar; None for only on a terminal."""
    token = _SHOWN.set(progress)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress_bar(task: str, cells: int | None, progress: bool | None) -> Any:
    """Return a bar on standard error with cells and time left; with ``progress`` None it shows only on a terminal."""
    return tqdm(desc=task, total=cells, unit=" cells", disable=None if progress is None else not progress)


def inner_bar(task: str, cells: int) -> Any:
    """Return a bar as :func:`progress_bar` does, shown as :func:`showing` says."""
    return progress_bar(task, cells, _SHOWN.get())

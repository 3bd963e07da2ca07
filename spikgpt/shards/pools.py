"""Pools that run the tasks of an annotation in this process or, in :mod:`spikgpt.shards.cluster`, on a Dask cluster."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from spikgpt.embedding.base import Engine
from spikgpt.errors import SpikGPTError
from spikgpt.reference.files import Reference
from spikgpt.shards.worker import ShardJob, start_run, stop_run


class Result(NamedTuple):
    """Result of a task: its value or its error, and the address of the worker that ran the task.

    ``error`` is None if the task succeeded; ``worker`` is None if this process ran the task.
    """

    key: Any
    value: Any = None
    error: SpikGPTError | None = None
    worker: str | None = None


class Pool(Protocol):
    """Runs tasks in any order; a task is a function of :mod:`spikgpt.shards.worker`."""

    def submit(self, key: Hashable, task: Callable[..., Any], *arguments: Any, worker: str | None = None) -> None:
        """Add a task, to run on ``worker`` if possible. The task gets the run's digest, then ``arguments``."""

    def results(self) -> Iterator[Result]:
        """Yield the result of each task once it is done; tasks may be added meanwhile."""


class InProcess:
    """Runs tasks one by one in this process."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._tasks: deque[tuple[Any, Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, key: Hashable, task: Callable[..., Any], *arguments: Any, worker: str | None = None) -> None:
        """Add a task; ``worker`` is ignored."""
        self._tasks.append((key, task, arguments))

    def results(self) -> Iterator[Result]:
        """Run the tasks one by one, and yield the result of each."""
        while self._tasks:
            key, task, arguments = self._tasks.popleft()
            try:
                result = Result(key, task(self._run, *arguments))
            except SpikGPTError as error:
                result = Result(key, error=error)
            yield result


@contextmanager
def in_process(job: ShardJob, model: tuple[Reference, Engine]) -> Iterator[Pool]:
    """Yield a pool that runs tasks in this process; ``model`` is the reference and its engine, both open."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as scratch:
        start_run(job, Path(scratch), model)
        try:
            yield InProcess(job.run)
        finally:
            stop_run(job.run)

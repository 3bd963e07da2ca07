"""Pools that run the tasks of a run; :mod:`spikgpt.shards.cluster` has the pool of a Dask cluster."""

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
    """Value of a task, or the error that it raised, and the address of the worker that ran it."""

    key: Any
    value: Any = None
    error: SpikGPTError | None = None
    worker: str | None = None


class Pool(Protocol):
    """Runs tasks, functions of :mod:`spikgpt.shards.worker`, in any order."""

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
        """Add a task."""
        self._tasks.append((key, task, arguments))

    def results(self) -> Iterator[Result]:
        """Run the tasks."""
        while self._tasks:
            key, task, arguments = self._tasks.popleft()
            try:
                result = Result(key, task(self._run, *arguments))
            except SpikGPTError as error:
                result = Result(key, error=error)
            yield result


@contextmanager
def in_process(job: ShardJob, model: tuple[Reference, Engine]) -> Iterator[Pool]:
    """Yield a pool of this process, which uses a reference and an engine that are open."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as scratch:
        start_run(job, Path(scratch), model)
        try:
            yield InProcess(job.run)
        finally:
            stop_run(job.run)

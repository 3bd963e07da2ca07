"""Run the tasks of an annotation on the workers of a Dask cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, WorkerPlugin, as_completed, get_worker

from spikgpt.errors import ShardError, SpikGPTError
from spikgpt.shards.pools import Pool, Result
from spikgpt.shards.worker import ShardJob, start_run, stop_run

# Number of attempts to prepare all workers, and of repeats of a failed task. A task may fail because a busy machine
# reads a file too slowly.
ATTEMPTS, RETRIES = 5, 1
LOST = "The scheduler was lost, or the tasks were cancelled. Run the same command again."


class RunPlugin(WorkerPlugin):  # type: ignore[misc]
    """Dask plug-in that prepares each worker of a cluster for a run, also workers that join the cluster later."""

    def __init__(self, job: ShardJob) -> None:
        self.job, self.name = job, f"spikgpt-{job.run[:16]}"

    def setup(self, worker: Any) -> None:
        """Prepare a worker for a run; the first task of the worker will open the reference."""
        start_run(self.job, Path(worker.local_directory))

    def teardown(self, worker: Any) -> None:
        """Close the files of a worker, and delete its caches."""
        stop_run(self.job.run)


class OnCluster:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(self, client: Client, run: str) -> None:
        self._client, self._run = client, run
        self._tasks: dict[str, tuple[Any, str]] = {}
        self._done: Any = as_completed([], loop=client.loop)

    def submit(self, key: Hashable, task: Callable[..., Any], *arguments: Any, worker: str | None = None) -> None:
        """Add a task; if ``worker`` is busy or gone, another worker runs the task."""
        where: dict[str, Any] = {"workers": [worker], "allow_other_workers": True} if worker else {}
        future: Any = self._client.submit(_on_worker, task, self._run, *arguments, pure=False, retries=RETRIES, **where)
        self._tasks[future.key] = key, arguments[0].path
        self._done.add(future)

    def results(self) -> Iterator[Result]:
        """Yield the result of each task as soon as the task is done."""
        for future in self._done:
            key, path = self._tasks.pop(future.key)
            yield _result(key, path, future)
            future.release()

    def cancel(self) -> None:
        """Cancel the remaining tasks."""
        self._tasks.clear()
        self._done.clear()


@contextmanager
def on_cluster(client: Client, job: ShardJob) -> Iterator[Pool]:
    """Prepare the workers of a cluster for a run, and yield the pool that runs tasks on them."""
    plugin = RunPlugin(job)
    for attempt in range(ATTEMPTS):
        try:
            client.register_plugin(plugin)
            break
        except OSError as error:  # a worker or the scheduler died meanwhile
            if attempt == ATTEMPTS - 1:
                raise ShardError(LOST) from error
            time.sleep(1)
    pool = OnCluster(client, job.run)
    try:
        yield pool
    finally:
        pool.cancel()
        # The plug-in cannot be removed if the connection to the scheduler was lost.
        with suppress(OSError, TimeoutError, ValueError):
            client.unregister_worker_plugin(plugin.name)


def _on_worker(task: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Run a task on a worker; return the value of the task, and the address of the worker."""
    return task(*arguments), str(get_worker().address)


def _result(key: Any, path: str, future: Any) -> Result:
    """Return the value or the error of a finished task; ``path`` is the file of its shard."""
    if future.status in ("cancelled", "lost"):
        return Result(key, error=ShardError(LOST))
    try:
        value, worker = future.result()
    except SpikGPTError as error:
        return Result(key, error=error)
    except KilledWorker:
        msg = (
            f"{path}: several workers died while they read this shard, probably because they ran out of memory. Give "
            "each worker more memory, or take a smaller shard size."
        )
        return Result(key, error=ShardError(msg))
    return Result(key, value, worker=worker)

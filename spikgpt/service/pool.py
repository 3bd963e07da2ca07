"""Worker processes of the service: each labels one request at a time, and is replaced when it dies or takes too long.

Workers are processes, because a thread cannot be stopped, and a crash of the HDF5 library in a thread would end the
server. Workers are kept between requests, because each needs about two seconds to load the references.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from spikgpt.errors import SpikGPTError
from spikgpt.service.messages import Begun, Done, Failed, JobProgress, LabelJob, Model, Ready, Reply, Served, Setup
from spikgpt.service.refusals import Kind, Refusal

# Largest reply of a worker in bytes.
LONGEST_REPLY = 16 * 1024 * 1024
# Seconds between attempts to start a worker: the first wait, which doubles after each failure, and the longest wait.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
# Module that a worker process runs.
WORKER = "spikgpt.service.worker"
STOPPING = "The service is stopping; send the request to another one, or again later."
log = logging.getLogger("spikgpt.service")


class WorkerProcess:
    """A worker process, and the messages to and from this process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.has_begun = False

    @classmethod
    async def start(cls, setup: Setup, module: str = WORKER) -> tuple[WorkerProcess, Ready]:
        """Start a process that runs a module, and wait until the process has loaded the references.

        Raises
        ------
        Refusal
            When a reference cannot be loaded, or the process dies.
        """
        # -P ignores modules in the current folder. PYTHONPATH gives the worker the module path of this process.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            limit=LONGEST_REPLY,
            start_new_session=True,  # Ctrl-C reaches the server only; a kill ends the worker's children too
        )
        worker = cls(process)
        try:
            reply = await worker.ask(setup)
            if not isinstance(reply, Ready):
                raise _LoadError(reply.error if isinstance(reply, Failed) else "A worker process died while it loaded.")
        except BaseException:
            await worker.kill()
            raise
        return worker, reply

    async def ask(
        self, message: Setup | LabelJob, on_progress: Callable[[JobProgress], None] | None = None
    ) -> Reply | None:
        """Send a message and return the reply; None if the process died.

        ``has_begun`` is True afterwards if the process had begun to handle the message.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.has_begun = False
        try:
            self.process.stdin.write(msgspec.json.encode(message) + b"\n")
            await self.process.stdin.drain()
            while line := await self.process.stdout.readline():
                reply: Reply = msgspec.json.decode(line, type=Reply)
                if isinstance(reply, JobProgress):
                    if on_progress is not None:
                        on_progress(reply)
                elif not isinstance(reply, Begun):
                    return reply
                self.has_begun = True
            return None
        except (OSError, ValueError):  # a closed pipe, or bytes that are no reply
            return None

    async def kill(self) -> None:
        """Kill the process and the processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


class _LoadError(SpikGPTError):
    """A worker process cannot load the references."""


class _Task:
    """A job in the queue, with its result."""

    def __init__(
        self,
        job: LabelJob,
        is_abandoned: Callable[[], Awaitable[bool]],
        on_progress: Callable[[JobProgress], None] | None = None,
    ) -> None:
        self.job, self.is_abandoned, self.on_progress = job, is_abandoned, on_progress
        self.result: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        # Event that is set while no worker uses the job's folder.
        self.is_free = asyncio.Event()
        self.is_free.set()


class WorkerPool:
    """Worker processes and the queue of jobs. Call :meth:`start` before the first job, and :meth:`close` at the end.

    Parameters
    ----------
    setup
        References and options of each worker.
    size
        Number of workers.
    module
        Module that each worker runs.
    """

    def __init__(self, setup: Setup, size: int, module: str = WORKER) -> None:
        self.references: tuple[Served, ...] = ()
        self.replaced = 0
        self._setup, self._size, self._module = setup, size, module
        self._queue: asyncio.Queue[_Task] = asyncio.Queue()
        self._slots: list[asyncio.Task[None]] = []
        self._workers: set[WorkerProcess] = set()
        self._tasks: set[_Task] = set()
        self._loaded = 0

    @property
    def is_loaded(self) -> bool:
        """True if every worker has loaded its references once, and at least one worker is running now."""
        return self._loaded >= self._size and bool(self._workers)

    @property
    def waiting(self) -> int:
        """Number of jobs that no worker has begun."""
        return self._queue.qsize()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    async def start(self) -> None:
        """Load the references in a first worker, then start the other workers in the background.

        Raises
        ------
        SpikGPTError
            When a reference cannot be loaded.
        """
        first, ready = await WorkerProcess.start(self._setup, self._module)
        self.references = ready.references
        # The other workers load references with the same digests, and do not contact the Hub.
        models = tuple(
            Model(model.source, served.digest)
            for model, served in zip(self._setup.models, ready.references, strict=True)
        )
        keywords = self._setup.keywords | {"local_files_only": True}
        self._setup = msgspec.structs.replace(self._setup, models=models, keywords=keywords)
        self._slots = [asyncio.create_task(self._run_slot(None if number else first)) for number in range(self._size)]

    async def submit(
        self,
        job: LabelJob,
        timeout: float,
        is_abandoned: Callable[[], Awaitable[bool]],
        on_progress: Callable[[JobProgress], None] | None = None,
    ) -> Done:
        """Queue a job, and return its result; a job that takes too long is stopped.

        Parameters
        ----------
        timeout
            Seconds for waiting and labelling.
        is_abandoned
            Function that is called before the job begins; the job is dropped if the function returns True.
        on_progress
            Function that is called with the reports of the worker on its progress.

        Raises
        ------
        Refusal
            When the upload cannot be labelled, the time is over, or the worker died.
        """
        task = _Task(job, is_abandoned, on_progress)
        self._tasks.add(task)
        self._queue.put_nowait(task)
        try:
            return await asyncio.wait_for(task.result, timeout)
        except TimeoutError:
            msg = (
                f"The labels were not ready within {timeout:g} s. Send fewer cells, or raise --timeout of the service."
            )
            raise Refusal(Kind.LABELLING_TIMEOUT, msg) from None
        finally:
            self._tasks.discard(task)
            await task.is_free.wait()

    def refuse_all(self) -> None:
        """Refuse the jobs that are not done, because the service stops."""
        for task in self._tasks:
            if not task.result.done():
                task.result.set_exception(Refusal(Kind.STOPPING, STOPPING))

    async def close(self) -> None:
        """Refuse the jobs that are not done, and kill all workers."""
        self.refuse_all()
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)

    async def _run_slot(self, worker: WorkerProcess | None) -> None:
        """Keep one worker running, and give one job after the other to this worker."""
        while True:
            worker = worker or await self._start_worker()
            self._workers.add(worker)
            self._loaded += 1
            try:
                while (task := await self._next_task(worker)) is not None:
                    task.is_free.clear()
                    try:
                        if not await self._run_task(worker, task):
                            await worker.kill()
                            break
                    finally:
                        task.is_free.set()
            finally:
                self._workers.discard(worker)
                await worker.kill()
            log.warning("A worker process ended (%s) and is replaced.", worker.process.returncode)
            self.replaced += 1
            worker = None

    async def _start_worker(self) -> WorkerProcess:
        """Return a new worker, after as many attempts as are needed."""
        pause = FIRST_PAUSE
        while True:
            try:
                worker, _ = await WorkerProcess.start(self._setup, self._module)
            except (SpikGPTError, OSError) as error:
                log.error("A worker process cannot be started: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return worker

    async def _next_task(self, worker: WorkerProcess) -> _Task | None:
        """Return the next job for a worker; None if the worker died while it waited for a job."""
        died = asyncio.ensure_future(worker.process.wait())
        try:
            while True:
                waiting = asyncio.ensure_future(self._queue.get())
                waited: set[asyncio.Future[Any]] = {waiting, died}
                try:
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    taken = waiting.done()
                    if not taken:
                        waiting.cancel()
                if not taken:
                    return None
                task = waiting.result()
                if died.done():
                    self._queue.put_nowait(task)
                    return None
                if not task.result.done() and not await task.is_abandoned():
                    return task
                if not task.result.done():
                    task.result.set_exception(Refusal(Kind.BAD_REQUEST, "The client closed the connection."))
        finally:
            died.cancel()

    async def _run_task(self, worker: WorkerProcess, task: _Task) -> bool:
        """Let a worker do a job; return False when the worker must be replaced."""
        asking = asyncio.ensure_future(worker.ask(task.job, task.on_progress))
        waited: set[asyncio.Future[Any]] = {asking, task.result}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asking.done():
                asking.cancel()
        if task.result.done():  # too late, or the service stops
            return False
        reply = asking.result()
        if isinstance(reply, Done):
            task.result.set_result(reply)
        elif isinstance(reply, Failed):
            task.result.set_exception(Refusal.from_name(reply.kind, reply.error))
        elif not worker.has_begun:  # the process died before it saw the job
            self._queue.put_nowait(task)
        else:
            await worker.kill()
            code = worker.process.returncode or 0
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            msg = f"The process that read these cells died ({reason}); the file may be damaged. Other requests go on."
            task.result.set_exception(Refusal(Kind.WORKER_DIED, msg))
        return reply is not None

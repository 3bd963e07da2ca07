"""Runs of the page: give a file to a worker process, and report its progress."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NamedTuple

from spikgpt.app.messages import Finished, PageJob, Step, Summary
from spikgpt.app.sessions import PageSession
from spikgpt.app.settings import AppOptions
from spikgpt.errors import ConfigError, SpikGPTError, with_noun
from spikgpt.service.messages import Done, JobProgress
from spikgpt.service.pool import WorkerPool
from spikgpt.service.refusals import Kind, Refusal

# Seconds between two reports on the progress of a run.
EVERY = 0.25
WAITING = "Waiting for other files"
STARTING = "Reading"


class LabelRequest(NamedTuple):
    """Values of the page's fields: the reference, the path of a file on this machine, and the options."""

    reference: str
    path: str = ""
    cluster_key: str = ""
    batch_key: str = "auto"
    unknown: bool = True


class RunStopped(Exception):
    """The user stopped a run."""


class Runs:
    """Starts the runs of all sessions, and limits their number.

    Parameters
    ----------
    pool
        Worker processes, already started.
    """

    def __init__(self, pool: WorkerPool, settings: AppOptions) -> None:
        self._pool, self._settings = pool, settings
        self._admitted = 0

    @property
    def names(self) -> dict[str, int]:
        """Number of labels of each reference, by its name."""
        return {reference.name: len(reference.labels) for reference in self._pool.references}

    async def run(self, session: PageSession, request: LabelRequest) -> AsyncGenerator[Step | Finished]:
        """Label a file; yield the current step several times a second, and at the end the labels.

        Raises
        ------
        SpikGPTError
            When the file cannot be labelled.
        RunStopped
            When the user stopped the run.
        """
        if session.run is not None and not session.run.done():
            msg = "This page labels a file already. Wait for its labels, or stop it."
            raise Refusal(Kind.BUSY, msg)
        if self._admitted >= self._settings.most_runs:
            msg = f"The server has {with_noun(self._admitted, 'file')} to label already. Try this one again later."
            raise Refusal(Kind.BUSY, msg)
        job = self._job(session, request)
        self._admitted += 1
        try:
            async with aclosing(self._follow(session, job)) as reports:
                async for report in reports:
                    yield report
        except BaseException:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise
        finally:
            self._admitted -= 1

    async def _follow(self, session: PageSession, job: PageJob) -> AsyncGenerator[Step | Finished]:
        """Submit a job; yield its current step several times a second, and at the end its labels."""
        started = time.monotonic()
        latest = JobProgress(WAITING)

        def note(progress: JobProgress) -> None:
            nonlocal latest
            latest = progress

        async def is_abandoned() -> bool:
            nonlocal latest
            latest = JobProgress(STARTING)
            return session.is_closed

        work = asyncio.create_task(self._pool.submit(job, self._settings.timeout, is_abandoned, note))
        session.run = work
        try:
            while not work.done():
                yield Step(latest, time.monotonic() - started)
                await asyncio.wait({work}, timeout=EVERY)
            yield self._finished(session, job, work, time.monotonic() - started)
        finally:
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError, SpikGPTError):
                    await work
            if session.run is work:
                session.run = None

    def _finished(self, session: PageSession, job: PageJob, work: asyncio.Task[Done], seconds: float) -> Finished:
        if work.cancelled():
            raise RunStopped
        work.result()
        folder = Path(job.folder)
        summary = Summary.read(folder)
        if not Path(job.query).is_absolute():
            (folder / job.query).unlink(missing_ok=True)
        return Finished(summary, session.keep_results(folder), seconds)

    def _job(self, session: PageSession, request: LabelRequest) -> PageJob:
        """Return the job of a request, with a folder of its own.

        Raises
        ------
        ConfigError
            When no file or no reference is named, or an upload and a path are named.
        """
        path = request.path.strip() if self._settings.is_local else ""
        if path and session.upload is not None:
            msg = "Two files are named: an upload and a path. Remove the upload, or clear the path."
            raise ConfigError(msg)
        if session.uploads_running:
            msg = "The upload is not complete yet. Wait for its end, and try again."
            raise ConfigError(msg)
        if not path and session.upload is None:
            also = ", or name the path of one" if self._settings.is_local else ""
            msg = f"No file is named. Drop a file of cells on the page{also}."
            raise ConfigError(msg)
        if not request.reference.strip():
            msg = "No reference is named. Choose one, or auto."
            raise ConfigError(msg)
        session.forget_results()
        folder = session.new_folder()
        if session.upload is not None:
            # A hard link keeps the bytes of this upload, under the name of the user's file, if the upload is replaced.
            query = session.upload.name
            os.link(session.upload, folder / query)
        else:
            query = str(Path(path).expanduser().absolute())
        return PageJob(
            folder=str(folder),
            model=request.reference.strip(),
            options={
                "batch_key": request.batch_key.strip() or None,
                "unknown_rate": None if request.unknown else 0.0,
            },
            media="",
            query=query,
            cluster_key=request.cluster_key.strip() or None,
            max_bytes=self._settings.max_bytes,
        )

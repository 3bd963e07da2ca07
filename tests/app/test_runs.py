"""Runs are accepted or refused, report their progress, and can be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from spikgpt.app.messages import RESULTS, SUMMARY, Finished, PageJob, Step
from spikgpt.app.runs import STARTING, WAITING, LabelRequest, Runs, RunStopped
from spikgpt.app.sessions import PageSession
from spikgpt.app.settings import AppOptions
from spikgpt.errors import ConfigError, SpikGPTError
from spikgpt.service.messages import Done, JobProgress
from spikgpt.service.pool import WorkerPool
from spikgpt.service.refusals import Kind, Refusal
from tests.app.test_messages import summary
from tests.app.test_sessions import files, upload_writer

LABELS = summary("alpha")


class MadeUpPool:
    """Stand-in for the pool of workers; a job ends when the test sets the event ``release``."""

    def __init__(self, error: SpikGPTError | None = None) -> None:
        self.error, self.release = error, asyncio.Event()
        self.jobs: list[PageJob] = []
        self.stopped = 0

    async def submit(
        self, job: PageJob, timeout: float, is_abandoned: Callable[[], Awaitable[bool]], on_progress: Any
    ) -> Done:
        self.jobs.append(job)
        try:
            await asyncio.sleep(0.01)
            assert not await is_abandoned()
            on_progress(JobProgress("Labelling", 1, 2))
            await self.release.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if self.error:
            raise self.error
        results = Path(job.folder, RESULTS)
        results.mkdir()
        (results / SUMMARY).write_bytes(msgspec.json.encode(LABELS))
        return Done(file="", headers={}, cells=10)


def runs_of(pool: MadeUpPool, **settings: Any) -> Runs:
    return Runs(cast(WorkerPool, pool), AppOptions(concurrent=1, queue=0, **settings))


async def collect_reports(
    runs: Runs, session: PageSession, request: LabelRequest, reports: list[Step | Finished]
) -> None:
    async for report in runs.run(session, request):
        reports.append(report)


async def session_with_upload(folder: Path) -> PageSession:
    session = PageSession(folder)
    await session.receive("cells.h5ad", upload_writer(b"cells"))
    return session


def test_a_run_reports_its_steps_and_then_its_labels(tmp_path: Path) -> None:
    async def check() -> None:
        pool, session, reports = MadeUpPool(), await session_with_upload(tmp_path), list[Step | Finished]()
        run = asyncio.create_task(
            collect_reports(runs_of(pool), session, LabelRequest("pancreas", unknown=False), reports)
        )
        await asyncio.sleep(0.5)
        assert session.run is not None
        pool.release.set()
        await run
        *steps, last = reports
        assert [report.progress.step for report in steps if isinstance(report, Step)][0] == WAITING
        assert steps[-1].progress == JobProgress("Labelling", 1, 2)  # type: ignore[union-attr]
        assert isinstance(last, Finished)
        assert last.summary == LABELS
        assert session.results is not None
        assert last.address == session.results[0]
        (job,) = pool.jobs
        assert (job.query, job.model, job.cluster_key) == ("cells.h5ad", "pancreas", None)
        assert job.options == {"batch_key": "auto", "unknown_rate": 0.0}
        # The upload stays for the next run; its link in the folder of the job is removed.
        assert files(tmp_path) == ["cells.h5ad", SUMMARY]
        assert session.run is None

    asyncio.run(check())
    assert STARTING != WAITING


def test_runs_are_limited_for_each_page_and_for_the_server(tmp_path: Path) -> None:
    async def check() -> None:
        pool, first, second = (
            MadeUpPool(),
            await session_with_upload(tmp_path / "a"),
            await session_with_upload(tmp_path / "b"),
        )
        runs, request = runs_of(pool), LabelRequest("pancreas")
        run = asyncio.create_task(collect_reports(runs, first, request, []))
        await asyncio.sleep(0.1)
        with pytest.raises(Refusal, match="labels a file already"):
            await collect_reports(runs, first, request, [])
        with pytest.raises(Refusal, match="1 file to label already"):
            await collect_reports(runs, second, request, [])
        pool.release.set()
        await run
        await collect_reports(runs, second, request, [])
        assert len(pool.jobs) == 2

    asyncio.run(check())


@pytest.mark.parametrize("way", ["stop", "leave"])
def test_a_stopped_run_keeps_no_results(way: str, tmp_path: Path) -> None:
    async def check() -> None:
        pool, session = MadeUpPool(), await session_with_upload(tmp_path)
        run = asyncio.create_task(collect_reports(runs_of(pool), session, LabelRequest("pancreas"), []))
        await asyncio.sleep(0.1)
        if way == "stop":
            assert await session.stop()
            with pytest.raises(RunStopped):
                await run
        else:
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        assert pool.stopped == 1
        assert files(tmp_path) == ["cells.h5ad"]
        assert not await session.stop()

    asyncio.run(check())


def test_an_error_of_the_worker_is_raised(tmp_path: Path) -> None:
    async def check() -> None:
        pool, session = MadeUpPool(Refusal(Kind.DATA_ERROR, "damaged")), await session_with_upload(tmp_path)
        pool.release.set()
        runs = runs_of(pool)
        for _ in range(2):
            with pytest.raises(Refusal, match="damaged"):
                await collect_reports(runs, session, LabelRequest("pancreas"), [])
        assert files(tmp_path) == ["cells.h5ad"]

    asyncio.run(check())


def test_a_path_is_for_local_pages_only(tmp_path: Path) -> None:
    async def check() -> None:
        pool = MadeUpPool()
        pool.release.set()
        await collect_reports(
            runs_of(pool), PageSession(tmp_path), LabelRequest("auto", " ~/cells.h5ad ", " leiden ", " "), []
        )
        (job,) = pool.jobs
        assert job.query == str(Path.home() / "cells.h5ad")
        assert (job.cluster_key, job.options["batch_key"]) == ("leiden", None)
        with pytest.raises(ConfigError, match="No file is named"):
            await collect_reports(
                runs_of(pool, host="0.0.0.0"), PageSession(tmp_path), LabelRequest("auto", "/etc/passwd"), []
            )
        with pytest.raises(ConfigError, match="Two files are named"):
            await collect_reports(
                runs_of(pool), await session_with_upload(tmp_path), LabelRequest("auto", "/etc/passwd"), []
            )
        with pytest.raises(ConfigError, match="No reference is named"):
            await collect_reports(runs_of(pool), await session_with_upload(tmp_path), LabelRequest(" "), [])
        session = await session_with_upload(tmp_path)
        session.uploads_running = 1
        with pytest.raises(ConfigError, match="not complete yet"):
            await collect_reports(runs_of(pool), session, LabelRequest("auto"), [])
        assert len(pool.jobs) == 1

    asyncio.run(check())

"""Workers that die, hang or are too slow are replaced; each replacement costs one request."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.service.messages import UPLOAD, Done, JobProgress, LabelJob, Model, Setup
from spikgpt.service.pool import WorkerPool
from spikgpt.service.refusals import Kind, Refusal
from tests.cells.conftest import endless
from tests.service.conftest import CSV, Server, assert_labels, assert_refused, has_ended, running
from tests.service.test_server import begin_request, in_background


@pytest.fixture(scope="session")
def hanging_file(few: AnnData, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a file on which the HDF5 library hangs."""
    path = tmp_path_factory.mktemp("cells") / "endless.h5ad"
    few.write_h5ad(path)
    endless(path)
    return path.read_bytes()


def test_a_worker_killed_during_a_job_costs_one_request(hanging_file: bytes, h5ad: bytes, expected: Annotation) -> None:
    with running("--concurrent", 1) as server:
        (worker,) = server.workers()
        result = in_background(lambda: httpx.post(f"{server.address}/v1/annotate", content=hanging_file, timeout=180))
        server.wait_until(worker.children)  # the child process that tries to open the file
        worker.kill()
        message = assert_refused(result(), 500, "WorkerDied")
        assert "SIGKILL" in message
        assert_labels(server.annotate(h5ad), expected)
        assert server.metric("spikgpt_workers_replaced") == 1


def test_a_worker_killed_before_its_job_costs_no_request(h5ad: bytes, expected: Annotation) -> None:
    with running("--concurrent", 1) as server:
        result = begin_request(server, h5ad)
        server.workers()[0].kill()
        assert_labels(result(), expected)
        # A worker without a request is replaced too.
        server.wait_until_ready()
        server.workers()[0].kill()
        assert_labels(server.annotate(h5ad), expected)
        assert server.metric("spikgpt_workers_replaced") == 2


def test_a_job_that_takes_too_long_is_stopped(h5ad: bytes, tmp_path: Path) -> None:
    (tmp_path / UPLOAD).write_bytes(h5ad)
    job = LabelJob(folder=str(tmp_path), model="pancreas", options={"progress": False}, media=CSV)

    async def is_abandoned() -> bool:
        return False

    async def stop_and_go_on() -> Done:
        pool = WorkerPool(Setup(models=(Model("pancreas"),), keywords={}, max_cells=120), 1)
        await pool.start()
        try:
            while not pool.is_loaded:
                await asyncio.sleep(0.01)
            worker = psutil.Process(pool.pids[0])
            worker.suspend()
            with pytest.raises(Refusal, match=r"within 0\.5 s") as refused:
                await pool.submit(job, 0.5, is_abandoned)
            assert refused.value.kind == Kind.LABELLING_TIMEOUT
            assert has_ended(worker)
            return await pool.submit(job, 300, is_abandoned)
        finally:
            await pool.close()

    assert asyncio.run(stop_and_go_on()).cells == 120


WORKER = """
from spikgpt.service.messages import Done, Failed, JobProgress, Ready
from spikgpt.service.worker import answer_messages

def run(line, loaded, setup, send):
    for done in (1, 2):
        send(JobProgress("Labelling", done, 2))
    return Done(file="", headers={"loaded": loaded, "job": line.decode()}, cells=2)

answer_messages(lambda setup: "yes", lambda loaded: Ready(()), run)
"""


def test_another_module_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    heard: list[JobProgress] = []

    async def is_abandoned() -> bool:
        return False

    async def submit() -> Done:
        pool = WorkerPool(Setup(models=(), keywords={}, max_cells=1), 1, "made_up_worker")
        await pool.start()
        try:
            job = LabelJob(folder="a folder", model="", options={}, media="")
            return await pool.submit(job, 60, is_abandoned, heard.append)
        finally:
            await pool.close()

    done = asyncio.run(submit())
    assert done.headers["loaded"] == "yes"
    assert "a folder" in done.headers["job"]
    assert heard == [JobProgress("Labelling", 1, 2), JobProgress("Labelling", 2, 2)]


@pytest.mark.slow
def test_a_request_that_takes_too_long_is_stopped(h5ad: bytes, expected: Annotation) -> None:
    with running("--concurrent", 1, "--timeout", 20) as server:
        (worker,) = server.workers()
        worker.suspend()
        message = assert_refused(server.annotate(h5ad), 504, "LabellingTimeout")
        assert "within 20 s" in message
        server.wait_until(lambda: has_ended(worker))
        server.wait_until_ready()
        assert_labels(server.annotate(h5ad), expected)


@pytest.mark.slow
def test_a_file_over_which_hdf5_hangs_is_stopped(hanging_file: bytes) -> None:
    with running("--concurrent", 1, "--timeout", 5) as server:
        assert_refused(server.annotate(hanging_file), 504, "LabellingTimeout")
        # The child process that tries to open the file has ended with its worker.
        server.wait_until(lambda: not psutil.Process(server.process.pid).children(recursive=True)[1:])
    with running("--concurrent", 1) as server:
        assert "did not finish within" in assert_refused(server.annotate(hanging_file), 422, "DataError")
        assert server.metric("spikgpt_workers_replaced") == 0


def test_requests_beyond_the_queue_are_refused(h5ad: bytes, expected: Annotation) -> None:
    def post(server: Server) -> httpx.Response:
        return httpx.post(f"{server.address}/v1/annotate", content=h5ad, timeout=180)

    with running("--concurrent", 1, "--queue", 1) as server, ThreadPoolExecutor(6) as clients:
        (worker,) = server.workers()
        worker.suspend()
        answers = [clients.submit(post, server) for _ in range(6)]
        server.wait_until(lambda: server.metric("spikgpt_errors_total", kind="Busy") == 4)
        assert server.metric("spikgpt_waiting") == 1
        worker.resume()
        responses = [answer.result() for answer in answers]
        for response in responses:
            if response.status_code == 200:
                assert_labels(response, expected)
            else:
                assert_refused(response, 503, "Busy")
                assert int(response.headers["Retry-After"]) > 0
        assert sorted(response.status_code for response in responses) == [200, 200, 503, 503, 503, 503]

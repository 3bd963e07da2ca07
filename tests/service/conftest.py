"""A running service in a separate process, on a free port of the loopback interface."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from anndata import AnnData
from prometheus_client.parser import text_string_to_metric_families

from spikgpt import Annotation, SpikGPT
from spikgpt.reference.files import build_reference, save
from tests.cli.conftest import PROGRAM
from tests.cli.conftest import run as command_line_run

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"


class Server:
    """A ``spikgpt serve`` process, and an HTTP client of its service."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(180), self.log
        self.address = next(match[1] for line in self.log if (match := re.match(r"Listening on (\S+);", line)))
        self.client = httpx.Client(base_url=self.address, timeout=180)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with suppress(ValueError):  # the test may close the pipe
            for line in self.process.stderr:
                self.log.append(line)
                if line.startswith("Listening"):
                    self._listening.set()
        self._listening.set()

    def annotate(self, content: bytes, *, accept: str = "*/*", **parameters: Any) -> httpx.Response:
        """Post an upload to /v1/annotate, and return the response."""
        return self.client.post("/v1/annotate", content=content, params=parameters, headers={"Accept": accept})

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        return list(psutil.Process(self.process.pid).children())

    def metric(self, name: str, **labels: str) -> float:
        """Return a value of /metrics; 0 if the metric is missing."""
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def wait_until(self, condition: Any, seconds: float = 120) -> None:
        """Wait until a condition is true; fail after a time limit."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: self.client.get("/health").status_code == 200)

    def stop(self) -> int:
        """Stop the process with SIGTERM, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(180)
        self._reader.join()
        return code


def has_ended(process: psutil.Process) -> bool:
    """Return True if a process has ended; a zombie process has ended too."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def running(*arguments: object) -> Iterator[Server]:
    """Run ``spikgpt serve``, by default with the reference pancreas; assert that all its processes end."""
    models = () if "--model" in arguments else ("--model", "pancreas")
    command = [*PROGRAM, "serve", "--port", "0", *models, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield from _until_stopped(Server(process))
        finally:
            process.kill()


def _until_stopped(server: Server) -> Iterator[Server]:
    """Yield a service, and assert that it stops."""
    with server.client:
        server.wait_until_ready()
        workers = server.workers()
        yield server
    if server.process.poll() is None:
        assert server.stop() == 0, server.log
    server.wait_until(lambda: all(map(has_ended, workers)))
    assert not any("Traceback" in line for line in server.log), server.log


def write_islets(shipped: SpikGPT, folder: Path) -> Path:
    """Write the shipped reference under another name, without graphs."""
    return save(build_reference(replace(shipped.reference, name="islets", files={}, origin=None)), folder)


@pytest.fixture(scope="session")
def islets(shipped: SpikGPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of another reference, which tests must not change."""
    return write_islets(shipped, tmp_path_factory.mktemp("references") / "a folder")


@pytest.fixture(scope="session")
def served(islets: Path) -> Iterator[Server]:
    """Serve two references with two workers."""
    with running("--model", "pancreas", "--model", islets, "--concurrent", 2, "--max-cells", 500) as server:
        yield server


@pytest.fixture(scope="session")
def h5ad(few: AnnData, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return an .h5ad file of 120 cells."""
    path = tmp_path_factory.mktemp("cells") / "few.h5ad"
    few.write_h5ad(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def expected(shipped: SpikGPT, few: AnnData) -> Annotation:
    """Return the annotation of the cells in ``h5ad`` by the Python library."""
    return shipped.annotate(few.copy(), progress=False)


# The fixture ``run`` of tests/cli, so that tests here can run the command line too.
run = command_line_run


def assert_labels(response: httpx.Response, expected: Annotation) -> None:
    """Assert that a JSON answer has exactly the labels and scores of an annotation."""
    assert response.status_code == 200, response.text
    cells = response.json()["cells"]
    obs = expected.obs()
    assert [cell["cell"] for cell in cells] == list(obs.index)
    labels = ("label", "best_label", "label_broad", "ontology_term_id", "ontology_label")
    for name in (*labels, "confidence", "typicality", "ood_score"):
        assert [cell[name] for cell in cells] == obs[f"spikgpt_{name}"].tolist(), name


def assert_refused(response: httpx.Response, status: int, kind: str) -> str:
    """Assert that an answer is a refusal without paths or a traceback; return its message."""
    assert (response.status_code, response.json()["kind"]) == (status, kind), response.text
    assert set(response.json()) == {"error", "kind"}
    message = str(response.json()["error"])
    assert "Traceback" not in message
    assert "/tmp" not in message
    assert "spikgpt-serve" not in message
    assert "\n" not in message
    return message

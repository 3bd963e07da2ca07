"""The service stops gracefully, and refuses an address that it cannot use."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from spikgpt import Annotation
from tests.cli.conftest import Run
from tests.cli.conftest import assert_refused as assert_command_refused
from tests.service.conftest import Server, assert_labels, assert_refused, has_ended, running


def in_background(function: Callable[[], httpx.Response]) -> Callable[[], httpx.Response]:
    """Call a function in a thread; return a function that waits for its result."""
    results: list[httpx.Response] = []

    def call() -> None:
        with suppress(httpx.TransportError):  # the server was killed
            results.append(function())

    thread = threading.Thread(target=call)
    thread.start()

    def result() -> httpx.Response:
        thread.join(180)
        return results[0]

    return result


def begin_request(server: Server, h5ad: bytes) -> Callable[[], httpx.Response]:
    """Pause the only worker and post an upload; return a function that waits for the answer."""
    (worker,) = server.workers()
    worker.suspend()
    result = in_background(lambda: httpx.post(f"{server.address}/v1/annotate", content=h5ad, timeout=180))
    server.wait_until(lambda: server.metric("spikgpt_in_flight") == 1 and server.metric("spikgpt_waiting") == 0)
    return result


def test_a_signal_lets_requests_finish_and_refuses_new_ones(h5ad: bytes, expected: Annotation) -> None:
    with running("--concurrent", 1) as server:
        result = begin_request(server, h5ad)
        (worker,) = server.workers()
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: server.client.get("/health").json() == {"status": "stopping"})
        response = server.annotate(h5ad)
        assert_refused(response, 503, "Stopping")
        assert int(response.headers["Retry-After"]) > 0
        assert server.client.get("/health").status_code == 503
        server.client.close()
        worker.resume()
        assert_labels(result(), expected)
        assert server.process.wait(120) == 0


def test_the_time_to_finish_is_bounded(h5ad: bytes) -> None:
    with running("--concurrent", 1, "--grace", 0.5) as server:
        result = begin_request(server, h5ad)
        server.process.send_signal(signal.SIGINT)
        assert_refused(result(), 503, "Stopping")
        assert server.process.wait(120) == 0


def test_a_second_signal_stops_at_once(h5ad: bytes) -> None:
    with running("--concurrent", 1) as server:
        result = begin_request(server, h5ad)
        server.process.send_signal(signal.SIGINT)
        server.wait_until(lambda: server.client.get("/health").json() == {"status": "stopping"})
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(120) == 0
        del result


def test_an_address_in_use_is_refused(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_command_refused(run("serve", "--port", port), f"127.0.0.1 port {port} cannot be used")
    assert_command_refused(run("serve", "--host", "no such host"), "no such host port 8000 cannot be used")


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_workers_end_with_a_killed_server(h5ad: bytes) -> None:
    with running("--concurrent", 1) as server:
        begin_request(server, h5ad)
        (worker,) = server.workers()
        server.process.kill()
        server.process.wait()
        server.wait_until(lambda: has_ended(worker))

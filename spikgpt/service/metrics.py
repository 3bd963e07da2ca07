"""Metrics of the service in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

# Upper bounds of the bins of the latency histogram, in seconds.
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class ServiceMetrics:
    """Counters, gauges and the latency histogram of one service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("spikgpt_requests", "Answers by path and status.", ["path", "status"], **names)
        self.errors = Counter("spikgpt_errors", "Refused requests by kind of error.", ["kind"], **names)
        self.cells = Counter("spikgpt_cells", "Labelled cells by reference.", ["reference"], **names)
        self.seconds = Histogram(
            "spikgpt_annotate_seconds", "Seconds from a request for labels to its answer.", buckets=SECONDS, **names
        )
        self.in_flight = Gauge("spikgpt_in_flight", "Requests for labels without an answer.", **names)
        self._waiting = Gauge("spikgpt_waiting", "Requests that no worker has begun.", **names)
        self._replaced = Gauge("spikgpt_workers_replaced", "Worker processes that died or took too long.", **names)
        self._memory = Gauge(
            "spikgpt_memory_bytes", "Resident memory of the server and of its workers.", ["process"], **names
        )

    def text(self, *, pids: Iterable[int], waiting: int, replaced: int) -> bytes:
        """Return all metrics as text.

        ``pids`` are the process ids of the workers. ``waiting`` is the number of jobs that no worker has begun, and
        ``replaced`` the number of replaced workers.
        """
        self._waiting.set(waiting)
        self._replaced.set(replaced)
        self._memory.labels("server").set(psutil.Process().memory_info().rss)
        self._memory.labels("workers").set(sum(map(_resident, pids)))
        return generate_latest(self._registry)


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0

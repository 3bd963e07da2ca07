"""Metrics that Prometheus can parse."""

from __future__ import annotations

import os

from prometheus_client.parser import text_string_to_metric_families

from spikgpt.service.metrics import ServiceMetrics


def test_metrics_parse() -> None:
    metrics = ServiceMetrics()
    metrics.errors.labels("Busy").inc()
    metrics.seconds.observe(0.3)
    # A worker that has just ended has no memory figure.
    text = metrics.text(pids=[os.getpid(), 2**22 + 1], waiting=3, replaced=1).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["spikgpt_errors_total", "Busy"] == 1
    assert samples["spikgpt_annotate_seconds_bucket", "0.25"] == 0
    assert samples["spikgpt_annotate_seconds_bucket", "0.5"] == 1
    assert samples["spikgpt_waiting",] == 3
    assert samples["spikgpt_workers_replaced",] == 1
    assert samples["spikgpt_memory_bytes", "workers"] > 1e6

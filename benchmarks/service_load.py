"""Measure latency, requests per second and memory of ``spikgpt serve`` under load, on the loopback interface.

    python benchmarks/service_load.py --clients 8 --seconds 60

The script starts a service with the shipped reference, lets clients post the 756 demo cells one request after the
other, and stops the service. Refused requests count as errors. Memory is the resident memory that
``/metrics`` states.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
MOST_CLIENTS, MOST_SECONDS = 64, 600
COMMAND = (sys.executable, "-c", "from spikgpt.cli.main import main; main()", "serve", "--port", "0")


def memory(client: httpx.Client) -> dict[str, float]:
    """Return the resident memory of the server and of its workers, in MB."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == "spikgpt_memory_bytes"]
    return {sample.labels["process"]: sample.value / 1e6 for sample in samples}


def processor_seconds(service: int) -> float:
    """Return the processor seconds of the server, its workers, and the ended child processes of the workers."""
    processes = [psutil.Process(service), *psutil.Process(service).children()]
    return sum(sum(process.cpu_times()[:2]) for process in processes) + sum(
        sum(process.cpu_times()[2:4]) for process in processes[1:]
    )


def post_until(address: str, end: float) -> tuple[list[float], int]:
    """Post the cells until a time; return the seconds of each answer, and the number of errors."""
    content, seconds, errors = CELLS.read_bytes(), [], 0
    with httpx.Client(base_url=address, timeout=300) as client:
        while time.monotonic() < end:
            start = time.perf_counter()
            response = client.post("/v1/annotate", content=content)
            seconds.append(time.perf_counter() - start)
            if response.status_code != 200 or len(response.json()["cells"]) != 756:
                errors += 1
    return seconds, errors


def measure(service: int, address: str, clients: int, seconds: float) -> list[str]:
    """Put a load on the running service, and return the figures as lines of text."""
    with httpx.Client(base_url=address, timeout=300) as client:
        while client.get("/health").status_code != 200:
            time.sleep(0.1)
        post_until(address, time.monotonic() + 1)  # a worker loads some modules with its first request
        before, used, start = memory(client), processor_seconds(service), time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            results = list(pool.map(lambda _: post_until(address, start + seconds), range(clients)))
        lasted, after, used = time.monotonic() - start, memory(client), processor_seconds(service) - used
    errors = sum(count for _, count in results)
    latencies = np.concatenate([latency for latency, _ in results])
    median, most, nearly_all = np.percentile(latencies, [50, 95, 99])
    return [
        f"{clients} clients for {lasted:.0f} s: {len(latencies)} requests, {errors} errors, "
        f"{len(latencies) / lasted:.2f} requests/s",
        f"latency: median {median:.2f} s, 95% {most:.2f} s, 99% {nearly_all:.2f} s, largest {latencies.max():.2f} s",
        f"processor time of a request: {used / len(latencies):.2f} s, on all cores together",
        *(f"memory of the {name}: {size:.0f} MB before, {after[name]:.0f} MB after" for name, size in before.items()),
    ]


def main() -> None:
    """Measure a load and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8, choices=range(1, MOST_CLIENTS + 1), metavar="N")
    parser.add_argument("--seconds", type=float, default=60, help=f"at most {MOST_SECONDS}")
    parser.add_argument("--concurrent", type=int, default=2, help="workers of the service")
    options = parser.parse_args()
    console = Console(highlight=False)
    command = [*COMMAND, "--concurrent", str(options.concurrent), "--queue", str(options.clients)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        try:
            assert service.stderr is not None
            started = time.monotonic()
            line = service.stderr.readline()
            match = re.match(r"Listening on (\S+);", line)
            if match is None:
                sys.exit(line)
            console.print(f"the first worker loaded in {time.monotonic() - started:.1f} s")
            threading.Thread(target=service.stderr.read, daemon=True).start()
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            console.print(f"{os.cpu_count()} cores; load average before: {load}")
            for figures in measure(service.pid, match[1], options.clients, min(options.seconds, MOST_SECONDS)):
                console.print(figures)
        finally:
            service.terminate()


if __name__ == "__main__":
    main()

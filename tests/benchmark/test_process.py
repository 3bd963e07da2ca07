from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil

from spikgpt_benchmark.process import ResourceLimits, run_limited

EATER = "import time\neaten=[]\nwhile True: eaten.append(bytearray(b'x' * 20_000_000)); time.sleep(0.02)"
# Program that starts ``EATER`` as a child process, so that the child uses the memory.
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EATER!r}])"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def memory_eaters() -> list[int]:
    """Return the process ids of all running copies of ``EATER``."""
    processes = psutil.process_iter(["cmdline", "status"])
    return [
        process.pid
        for process in processes
        if EATER in (process.info["cmdline"] or []) and process.info["status"] != "zombie"
    ]


def test_a_finished_process_has_its_time_and_memory(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    outcome = run_limited(
        python("import time; print('hello'); time.sleep(.3); exit(3)"), ResourceLimits(), log, os.environ
    )
    assert (outcome.code, outcome.stopped) == (3, "")
    assert outcome.seconds >= 0.3
    assert outcome.peak_bytes > 1e6
    assert log.read_text() == "hello\n"


def test_a_process_whose_child_eats_memory_is_stopped_with_it(tmp_path: Path) -> None:
    outcome = run_limited(python(PARENT), ResourceLimits(gigabytes=0.2), tmp_path / "log.txt", os.environ)
    assert outcome.stopped == "stopped: memory above 0.2 GB"
    assert 0.2e9 < outcome.peak_bytes < 1e9
    deadline = time.monotonic() + 10
    while memory_eaters() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert memory_eaters() == []


def test_a_process_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    start = time.monotonic()
    outcome = run_limited(
        python("import time; time.sleep(60)"), ResourceLimits(seconds=0.4), tmp_path / "log.txt", os.environ
    )
    assert outcome.stopped == "stopped: longer than 0.4 s"
    assert time.monotonic() - start < 10

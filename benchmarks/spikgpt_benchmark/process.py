"""Run processes with limits of time and memory, and measure the memory of this process."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Seconds between two checks of a process.
INTERVAL = 0.05
GIGABYTE = 1e9


@dataclass(frozen=True)
class ResourceLimits:
    """Time limit of a process, and memory limit of the process and its children together."""

    seconds: float = 3600.0
    gigabytes: float = 8.0


@dataclass(frozen=True)
class ProcessOutcome:
    """Exit code, wall-clock time and peak memory of a process; ``stopped`` states the reached limit, or is empty."""

    code: int
    seconds: float
    peak_bytes: int
    stopped: str = ""


def run_limited(
    command: Sequence[str], limits: ResourceLimits, log: Path, environment: Mapping[str, str]
) -> ProcessOutcome:
    """Run a command until it ends or reaches a limit, and write its output to the file ``log``."""
    start, peak, stopped = time.monotonic(), 0, ""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(environment), start_new_session=True
        )
        try:
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                if peak > limits.gigabytes * GIGABYTE:
                    stopped = f"stopped: memory above {limits.gigabytes:.1f} GB"
                elif time.monotonic() - start > limits.seconds:
                    stopped = f"stopped: longer than {limits.seconds:g} s"
                if stopped:
                    break
                time.sleep(INTERVAL)
        finally:
            if process.returncode is None:
                _kill(process)
    return ProcessOutcome(process.returncode, time.monotonic() - start, peak, stopped)


def peak_megabytes() -> float:
    """Return the largest memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux, getrusage also covers the memory of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants; empty if the process has ended."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> int:
    """Return the resident memory of a process and its descendants, in bytes."""
    total = 0
    for process in _family(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, and wait for the process."""
    for member in _family(process.pid):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from spikgpt_benchmark.methods.result import MethodResult, MethodSettings
from spikgpt_benchmark.task import LABEL, BenchmarkTask
from spikgpt_benchmark.worker import main, run_method

MODULE = "tests.benchmark.fake_methods"
# Program that starts a worker, prints the worker's process id, and waits.
PARENT = """
import os, subprocess, sys, time
command = [sys.executable, "-m", "spikgpt_benchmark.worker", *sys.argv[1:], str(os.getpid())]
worker = subprocess.Popen(command)
print(worker.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(task: BenchmarkTask, tmp_path: Path) -> Path:
    task.reference.write_h5ad(tmp_path / "reference.h5ad")
    task.query.write_h5ad(tmp_path / "query.h5ad")
    return tmp_path


def write_settings(folder: Path, how: str) -> Path:
    MethodSettings(0, LABEL, options={"how": how}).write(folder)
    return folder


def test_a_worker_writes_its_result(task: BenchmarkTask, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worker", MODULE, str(write_settings(folder, "nearest"))])
    main()
    result = MethodResult.read(folder)
    assert result.fault(task.query.n_obs) is None
    assert (result.labels == task.truth)[task.known].mean() > 0.8


def test_labels_that_the_reference_does_not_have_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="labels that the reference does not have: Unknown"):
        run_method(MODULE, write_settings(folder, "strange"))


def test_a_worker_does_not_outlive_the_benchmark(folder: Path) -> None:
    command = [sys.executable, "-c", PARENT, MODULE, str(write_settings(folder, "sleep"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    _, alive = psutil.wait_procs([worker], timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

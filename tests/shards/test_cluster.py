"""A real cluster gives the same labels, even if workers and the driver are killed."""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from spikgpt import Annotation, SpikGPT, annotate_shards
from spikgpt.errors import DataError
from spikgpt.shards import run as runs
from spikgpt.shards.manifest import MANIFEST
from tests.cli.conftest import PROGRAM
from tests.shards.conftest import assert_same_labels

pytestmark = [
    pytest.mark.slow,
    # Warnings about sockets and processes of a closed cluster.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client() -> Iterator[Client]:
    """Start two worker processes with one thread each."""
    cluster_of: Any = LocalCluster
    client_of: Any = Client
    cluster = cluster_of(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    )
    with cluster, client_of(cluster, set_as_default=False) as client:
        yield client


def test_two_workers_give_the_labels_of_one_file(
    client: Client, shipped: SpikGPT, shards: list[Path], whole: Annotation, tmp_path: Path
) -> None:
    assert_same_labels(annotate_shards(shipped, shards, tmp_path / "labels", client, shard_size=70), whole)
    # An error in a worker reaches the user unchanged.
    (tmp_path / "damaged.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    with pytest.raises(DataError, match=r"damaged.h5ad"):
        annotate_shards(shipped, [*shards, tmp_path / "damaged.h5ad"], tmp_path / "other", client)
    # The workers keep no data of a finished run.
    runs = client.run(lambda: list(importlib.import_module("spikgpt.shards.worker")._RUNS))
    assert not any(runs.values())


def test_killed_workers_lose_no_labels(
    client: Client,
    shipped: SpikGPT,
    shards: list[Path],
    whole: Annotation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids, killed = list(client.run(os.getpid).values()), []
    assert len(pids) == 2

    def kill(number: int) -> None:
        os.kill(pids[number], signal.SIGKILL)
        killed.append(number)

    def kill_between(run: runs._Run) -> None:
        fit(run)
        kill(1)  # the cache of this worker is lost

    fit = runs._Run.fit
    monkeypatch.setattr(runs._Run, "fit", kill_between)
    first = threading.Timer(0.5, kill, [0])  # this worker is killed while it reads cells
    first.start()
    assert_same_labels(annotate_shards(shipped, shards, tmp_path / "labels", client, shard_size=30), whole)
    first.join()
    assert sorted(killed) == [0, 1]


def test_a_killed_driver_resumes(shards: list[Path], shipped: SpikGPT, tmp_path: Path) -> None:
    labels, shard = tmp_path / "labels", shards[1]
    command = [*PROGRAM, "annotate", str(shard), "--model", "pancreas", "--out-dir", str(labels)]
    # With many parts, some are unfinished even if a signal arrives late on a busy machine.
    command += ["--workers", "1", "--shard-size", "2"]
    for number in (signal.SIGKILL, signal.SIGINT):
        driver = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        before = len(list(labels.glob("*.parquet")))
        while len(list(labels.glob("*.parquet"))) < before + 2 and driver.poll() is None:
            time.sleep(0.01)
        driver.send_signal(number)
        error = driver.communicate()[1]
        if number == signal.SIGINT:
            assert driver.returncode == 130, error
            assert "of 75 parts are finished" in error
            assert json.loads((labels / MANIFEST).read_bytes())["parts"]
    resumed = annotate_shards(shipped, [shard], labels, shard_size=2)
    assert resumed.resumed >= 4
    assert_same_labels(resumed, shipped.annotate(shard))
    done = subprocess.run([*command[:-1], "20"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "shard size was 2, is 20" in done.stderr
    assert "Traceback" not in done.stderr

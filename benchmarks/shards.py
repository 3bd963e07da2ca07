"""Measure cells per second and memory of ``annotate_shards`` for each number of workers.

    python benchmarks/shards.py CELLS.h5ad --cells 200000 --shards 16 --workers 1 2 4

The cells are copies of real cells. Each copy keeps a random share of its counts, so that all cells differ. For each
number of workers, all shards are labelled in a new folder. The output is one JSON object for each run.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from anndata import AnnData
from distributed import Client, LocalCluster
from scipy import sparse

from spikgpt import SpikGPT, annotate_shards
from spikgpt.cells.reading import read_cells


def write_shards(cells: AnnData, folder: Path, n_cells: int, n_shards: int) -> list[Path]:
    """Write copies of random cells, each with a random share of its counts, to shards; return the paths."""
    counts, paths = sparse.csr_matrix(cells.X), []
    for number, rows in enumerate(np.array_split(np.arange(n_cells), n_shards)):
        random = np.random.default_rng(number)
        part = counts[random.integers(0, cells.n_obs, len(rows))]
        kept = np.repeat(random.uniform(0.5, 0.95, len(rows)), np.diff(part.indptr))
        part.data = random.binomial(part.data.astype(np.int64), kept).astype(np.float32)
        part.eliminate_zeros()
        shard = AnnData(part, var=cells.var[[]].copy())
        shard.obs_names = [f"cell {row}" for row in rows]
        paths.append(folder / f"shard-{number:03}.h5ad")
        shard.write_h5ad(paths[-1])
    return paths


class PeakMemory(threading.Thread):
    """Largest resident memory and processor time of each child process of this process, in bytes and seconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[int, int] = {}
        self.processor: dict[int, float] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample the memory five times a second."""
        while not self.ended.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                try:
                    memory, times = child.memory_info().rss, child.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self.processor[child.pid] = times.user + times.system
                self.peaks[child.pid] = max(self.peaks.get(child.pid, 0), memory)


class Passes:
    """Replacement of standard error that times each pass over the cells by the titles of the progress bars."""

    def __init__(self, memory: PeakMemory) -> None:
        self._memory = memory
        self.starts: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    def write(self, text: str) -> int:
        """Store the time at which the progress bar of each pass first appears."""
        name = text.strip().partition(":")[0]
        if name in ("Reading", "Fitting to a sample", "Labelling") and name not in self.starts:
            self.starts[name] = time.perf_counter()
            self.processor[name] = sum(self._memory.processor.values())
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

    def end(self) -> dict[str, tuple[float, float]]:
        """Return the seconds and the processor seconds from the start of each pass to the start of the next."""
        ends = [*list(self.starts.values())[1:], time.perf_counter()]
        used = [*list(self.processor.values())[1:], sum(self._memory.processor.values())]
        spans = zip(self.starts, self.starts.values(), ends, self.processor.values(), used, strict=True)
        return {name: (round(b - a, 1), round(d - c, 1)) for name, a, b, c, d in spans}


def measure(model: SpikGPT, paths: list[Path], folder: Path, workers: int) -> dict[str, Any]:
    """Label the shards with a number of workers, and return seconds, cells per second and memory."""
    quiet, memory = logging.CRITICAL, PeakMemory()
    passes = Passes(memory)
    memory.start()
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=quiet) as cluster,
        Client(cluster) as client,
    ):
        # Each worker opens the reference before the clock starts, as in a long run.
        annotate_shards(model, paths[:workers], folder / f"warm-{workers}", client, progress=False)
        shown, sys.stderr = sys.stderr, passes
        try:
            annotation = annotate_shards(model, paths, folder / f"labels-{workers}", client, progress=True)
        finally:
            sys.stderr = shown
        time.sleep(0.5)  # time for one more sample of the memory
        seconds = passes.end()
    memory.ended.set()
    size = (annotation.folder / "query_model.safetensors").stat().st_size
    return {
        "workers": workers,
        "cells": annotation.n_cells,
        "seconds and processor seconds": seconds,
        "labelled a second": round(annotation.n_cells / seconds["Labelling"][0]),
        "labelled a processor second": round(annotation.n_cells / seconds["Labelling"][1]),
        "largest worker in MB": round(max(memory.peaks.values()) / 1e6),
        "query model in MB": round(size / 1e6, 1),
    }


def main() -> None:
    """Measure each number of workers, and print one JSON object each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="pancreas")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    chosen = parser.parse_args()
    model = SpikGPT.from_pretrained(chosen.model, threads=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_shards(read_cells(chosen.file), folder, chosen.cells, chosen.shards)
        for workers in chosen.workers:
            sys.stdout.write(json.dumps(measure(model, paths, folder, workers)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

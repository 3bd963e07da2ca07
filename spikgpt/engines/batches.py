"""Run a network on batches of cells, several batches at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from spikgpt.options import EngineOptions, cores
from spikgpt.types import NetworkOutput, OnCells


def worker_count(options: EngineOptions) -> int:
    """Return the number of batches to run at a time on a CPU."""
    return cores() if options.threads is None else options.threads


def run_batches(
    run: Callable[[slice], NetworkOutput], cells: int, batch_size: int, *, threads: int, on_cells: OnCells | None
) -> NetworkOutput:
    """Call ``run`` for slices of ``batch_size`` cells, and return the joined output; no cells make one empty slice."""

    def run_one(part: slice) -> NetworkOutput:
        output = run(part)
        if on_cells:
            on_cells(part.stop - part.start)
        return output

    slices = [slice(start, min(start + batch_size, cells)) for start in range(0, cells, batch_size) or (0,)]
    # A new pool for each run: a process that is forked later would lack the pool's threads.
    with ThreadPoolExecutor(threads) as pool:
        outputs = list(pool.map(run_one, slices))
    names = ("vectors", "probabilities", "energies")
    return NetworkOutput(*(np.concatenate([getattr(output, name) for output in outputs]) for name in names))

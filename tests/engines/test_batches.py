"""Batches of cells run in several threads, and their outputs are joined in the order of the cells."""

from __future__ import annotations

import os

import numpy as np
import pytest

from spikgpt.engines.batches import run_batches, worker_count
from spikgpt.options import EngineOptions
from spikgpt.types import NetworkOutput

VALUES = np.arange(10.0)


def run(part: slice) -> NetworkOutput:
    values = VALUES[part]
    return NetworkOutput(values[:, None], values[:, None], values)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 100])
def test_outputs_are_joined_in_the_order_of_the_cells(batch_size: int, threads: int) -> None:
    done: list[int] = []
    output = run_batches(run, len(VALUES), batch_size, threads=threads, on_cells=done.append)
    np.testing.assert_array_equal(output.vectors, VALUES[:, None])
    np.testing.assert_array_equal(output.energies, VALUES)
    assert (sum(done), max(done)) == (10, min(batch_size, 10))


def test_no_cells_are_one_empty_batch() -> None:
    output = run_batches(run, 0, 5, threads=2, on_cells=None)
    assert (output.vectors.shape, output.energies.shape) == ((0, 1), (0,))


def test_an_error_in_a_batch_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        run_batches(lambda part: run(slice(1 // part.start, None)), 10, 5, threads=2, on_cells=None)


def test_the_default_is_one_batch_per_core() -> None:
    assert worker_count(EngineOptions(threads=3)) == 3
    assert worker_count(EngineOptions()) == len(os.sched_getaffinity(0))

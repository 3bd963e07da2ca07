"""Measure annotation and training on a GPU: labels compared with the CPU's, cells per second, and memory.

    python -m benchmarks.gpu_check [--cells 50000] [--providers cuda tensorrt] [--device cuda]

The cells are demo cells, drawn with replacement. Each count is drawn again from a Poisson distribution, so that no two
cells are equal. Without a GPU, ``--providers --device cpu`` tests the script itself. For the embedding by scGPT, run
``python -m benchmarks.scgpt_speed --device cuda``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.options import Provider
from spikgpt.scoring.annotation import Annotation
from spikgpt_benchmark.studies.speed import CELLS
from spikgpt_benchmark.studies.suite import Record, print_table

DEMO = CELLS.with_name("pancreas_baron_human1.h5ad")


def distinct_cells(n_cells: int) -> AnnData:
    """Return random demo cells; each count is drawn from a Poisson distribution around the real count."""
    demo, random = read_cells(CELLS), np.random.default_rng(0)
    cells = sparse.csr_matrix(demo.X, dtype=np.float32)[random.integers(0, demo.n_obs, n_cells)]
    cells.data = random.poisson(cells.data).astype(np.float32)
    cells.eliminate_zeros()
    return AnnData(cells, var=demo.var[[]])


def device_megabytes(device: str) -> float | None:
    """Return the memory in use on a GPU by all processes, in MB; None for a CPU."""
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def annotate_on(provider: Provider, query: AnnData, expected: Annotation | None) -> tuple[Record, Annotation]:
    """Annotate with a provider of ONNX Runtime; return a record of speed and memory, and the annotation.

    The record also counts the labels that differ from ``expected``, the annotation on the CPU. ``expected`` is None for
    the run on the CPU.
    """
    device = "cpu" if provider == "cpu" else "cuda"
    before = device_megabytes(device)
    model = SpikGPT.from_pretrained("pancreas", engine="onnx", provider=provider)
    # The first call is timed separately, because TensorRT builds its engine then.
    started = time.perf_counter()
    model.annotate(query[:1000], progress=False)
    first = time.perf_counter() - started
    started = time.perf_counter()
    annotation = model.annotate(query, progress=False)
    seconds, after = time.perf_counter() - started, device_megabytes(device)
    record: Record = {"provider": provider, "cells/s": query.n_obs / seconds, "first 1,000 cells, s": first}
    record["GPU memory, MB"] = None if before is None or after is None else after - before
    if expected is not None:
        record["labels that differ"] = int((annotation.labels != expected.labels).sum())
        record["Unknown that differ"] = int((annotation.rejected != expected.rejected).sum())
        record["largest difference of a probability"] = float(
            np.abs(annotation.probabilities - expected.probabilities).max()
        )
    return record, annotation


def train_on(device: str) -> Record:
    """Train on one donor and evaluate on two others; return time, memory and accuracy."""
    cells, query = (read_cells(path) for path in (DEMO, CELLS))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = SpikGPT.train(cells, label_key="cell_type", device=device)
        seconds = time.perf_counter() - started
        evaluation = model.evaluate(query, label_key="cell_type")
        model.save_pretrained(Path(folder) / "reference")
    record: Record = {"device": device, "seconds": seconds, "accuracy": evaluation.metrics.accuracy}
    record["GPU memory, MB"] = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else None
    return record


def main() -> None:
    """Measure annotation and training, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--providers", nargs="*", choices=["cuda", "tensorrt"], default=["cuda", "tensorrt"])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    query, records = distinct_cells(options.cells), []
    record, expected = annotate_on("cpu", query, None)
    records.append(record)
    for provider in options.providers:
        records.append(annotate_on(provider, query, expected)[0])
    print_table(records, f"Annotation of {options.cells} cells")
    print_table([train_on(device) for device in dict.fromkeys(("cpu", options.device))], "Training")


if __name__ == "__main__":
    main()

"""Cells per second of the literal model, the collapsed model and ONNX Runtime, in one run on this machine.

    python benchmarks/speed.py [--model pancreas]

Real demo cells through the whole network of a trained reference, from cell embeddings (both torch forms) and from
aligned counts (ONNX Runtime) to probabilities. Each figure is the best of several rounds, taken in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from spikgpt import SpikGPT
from spikgpt.data import align, find_expression, read_h5ad
from spikgpt.embedders.pca import PCAEmbedder
from spikgpt_onnx import Graph
from spikgpt_onnx.exporter import export

BATCH = 1024
CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"


def best_rate(run: Callable[[], object], cells: int, rounds: int) -> float:
    """Return the cells per second of the fastest round."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return cells / min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pancreas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--literal-cells", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8192)
    options = parser.parse_args()
    reference = SpikGPT.from_pretrained(options.model).reference
    if not isinstance(reference.embedder, PCAEmbedder):
        parser.error("name a reference with the pca embedder")
    aligned = align(find_expression(read_h5ad(CELLS)), reference.embedder.genes)
    repeated = np.resize(np.arange(len(aligned.totals)), options.cells)
    values, totals = aligned.values[repeated], aligned.totals[repeated]
    vectors = torch.as_tensor(reference.embedder.project(values, totals), dtype=torch.float32)
    few = vectors[: options.literal_cells]
    literal, collapsed = reference.classifier, reference.folded_classifier().float()
    with tempfile.TemporaryDirectory() as folder:
        export(reference, Path(folder) / "graph")
        graph = Graph(Path(folder) / "graph")
    inputs = {"counts": values.toarray(), "total": totals}
    with torch.inference_mode():
        difference = float((literal(few, literal=True) - collapsed(few)).abs().max())
        rates = {
            "torch, literal (m copies)": best_rate(lambda: literal(few, literal=True), len(few), options.rounds),
            "torch, collapsed": best_rate(
                lambda: [collapsed(part) for part in vectors.split(BATCH)], len(vectors), options.rounds
            ),
        }
    rates["ONNX Runtime, counts to probabilities"] = best_rate(
        lambda: graph.probabilities(inputs, batch_size=BATCH), len(totals), options.rounds
    )
    rates["torch, counts to probabilities"] = best_rate(
        lambda: reference.probabilities(reference.embedder.project(values, totals)), len(totals), options.rounds
    )
    base = rates["torch, literal (m copies)"]
    table = Table("form", "cells/s", "times literal", title=f"{reference.name}, m = {literal.config.copies}, float32")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.1f}", f"{rate / base:,.0f}")
    Console().print(table)
    Console().print(
        f"Largest difference of the logits, collapsed against literal: {difference:.1e}. "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. The last row runs in float64."
    )


if __name__ == "__main__":
    main()

"""Cells per second and peak memory from an h5ad file to labels, by torch and by ONNX Runtime, in one run.

    python benchmarks/speed.py [--cells 100000] [--largest 1000000] [--folder FOLDER]

The demo cells, all their genes, are repeated to the number of cells and written to FOLDER (12 KB a cell, uncompressed;
removed at the end). Each way to annotate is a process of its own, which states its time without imports and its peak
memory. Then the graph alone is held against a graph of nothing but its matrix products, on the same threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.reading import read_cells
from spikgpt.embedding.base import Embedding
from spikgpt.options import EngineOptions, LoadKeywords

CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
BYTES_A_CELL = 13_000
BATCH = 512
LITERAL, TORCH, FP32, INT8 = "torch, literal", "torch, collapsed", "ONNX Runtime, fp32", "ONNX Runtime, int8"
WAYS = {
    LITERAL: "m copies over T steps; the classifier alone, on a few cells",
    TORCH: "spikgpt annotate --engine torch, float64",
    FP32: "spikgpt annotate --engine onnx",
    INT8: "spikgpt annotate --engine onnx --precision int8",
}
KEYWORDS: dict[str, LoadKeywords] = {
    LITERAL: {"engine": "torch"},
    TORCH: {"engine": "torch"},
    FP32: {"engine": "onnx", "provider": "cpu"},
    INT8: {"engine": "onnx", "provider": "cpu", "precision": "int8"},
}


def best(run: Callable[[], object], rounds: int = 7) -> float:
    """Return the seconds of the fastest round."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def write_cells(path: Path, cells: int) -> None:
    """Write the demo cells, repeated, a block of rows at a time."""
    import h5py
    from scipy import sparse

    adata = read_cells(CELLS)
    adata.obs = adata.obs[[]]
    rows = sparse.csr_matrix(adata.X)
    adata.X = None
    adata.write_h5ad(path)
    lengths = np.diff(rows.indptr)
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
        names = np.array([f"cell {cell}" for cell in range(cells)], dtype=object)
        index = file["obs"].create_dataset("_index", data=names, dtype=h5py.string_dtype())
        index.attrs["encoding-type"], index.attrs["encoding-version"] = "string-array", "0.2.0"
        matrix = file.create_group("X")
        matrix.attrs["encoding-type"], matrix.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        matrix.attrs["shape"] = (cells, rows.shape[1])
        starts = np.concatenate([[0], np.cumsum(np.resize(lengths, cells), dtype=np.int64)])
        matrix["indptr"] = starts
        parts = {"data": rows.data, "indices": rows.indices}
        for name, part in parts.items():
            stored = matrix.create_dataset(name, (starts[-1],), part.dtype, chunks=(1 << 18,))
            for place in range(0, starts[-1], len(part)):
                stop = min(place + len(part), starts[-1])
                stored[place:stop] = part[: stop - place]


def measured(way: str, path: Path) -> dict[str, Any]:
    """Annotate a file in one of the ways; return the seconds, the cells, the memory in MB and the labels' counts."""
    from spikgpt import SpikGPT

    model = SpikGPT.from_pretrained("pancreas", **KEYWORDS[way])
    before = peak()
    if way == LITERAL:
        cells, seconds, labels = *literal(model.engine), {}
    else:
        start = time.perf_counter()
        labels = model.annotate(path, progress=False).counts()
        cells, seconds = sum(labels.values()), time.perf_counter() - start
    return {"cells": cells, "seconds": seconds, "before": before, "peak": peak(), "labels": labels}


def literal(engine: Any) -> tuple[int, float]:
    """Return how many cells the network with its m copies classified, and in how many seconds."""
    import torch

    vectors = torch.as_tensor(engine.vectors(demo_cells(engine.embedding).part(slice(32))), dtype=torch.float32)
    with torch.inference_mode():
        return len(vectors), best(lambda: engine.classifier(vectors, literal=True), rounds=2)


def demo_cells(embedding: Embedding) -> AlignedCells:
    """Return the demo cells as an embedding reads them."""
    return joined(list(embedding.read(read_cells(CELLS), layer=None, scaling="auto").chunks))


def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(way: str, path: Path) -> dict[str, Any]:
    """Return what :func:`measured` says in a process of its own."""
    command = [sys.executable, __file__, "--measure", way, "--file", str(path)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def products_alone(graph: Any) -> Any:
    """Return a graph of the matrix products of another, each by itself."""
    from onnx import TensorProto, helper, numpy_helper

    from spikgpt_onnx.graph import IR_VERSION, OPSET

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes: list[Any] = []
    inputs: dict[str, Any] = {}
    outputs, constants = [], []
    for node in graph.graph.node:
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        # Weights come first where results are turned.
        weight = weights[node.input[0]].T if node.input[0] in weights else weights[node.input[1]]
        place, (rows, columns) = len(nodes), weight.shape
        inputs[f"x{rows}"] = helper.make_tensor_value_info(f"x{rows}", TensorProto.FLOAT, ["cells", rows])
        nodes.append(helper.make_node("MatMul", [f"x{rows}", f"w{place}"], [f"y{place}"]))
        outputs.append(helper.make_tensor_value_info(f"y{place}", TensorProto.FLOAT, ["cells", columns]))
        constants.append(numpy_helper.from_array(np.ascontiguousarray(weight), f"w{place}"))
    alone = helper.make_graph(nodes, "products", list(inputs.values()), outputs, constants)
    return helper.make_model(alone, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def graph_against_products() -> dict[int, tuple[float, float]]:
    """Return the cells per second of the graph, and of its products alone, by the number of threads."""
    import onnx

    from spikgpt import SpikGPT
    from spikgpt.reference.layout import GRAPH
    from spikgpt_onnx.session import Session, workers

    cpu = EngineOptions(provider="cpu")
    model = SpikGPT.from_pretrained("pancreas", engine="onnx", provider="cpu")
    content, aligned = model.reference.files[GRAPH], demo_cells(model.engine.embedding)
    chosen = np.resize(np.arange(len(aligned.totals)), BATCH)
    real = {"counts": aligned.values[chosen].toarray(), "total": aligned.totals[chosen], "found": aligned.found}
    alone = products_alone(onnx.load_from_string(content))
    random = np.random.default_rng(0)
    made_up = {
        node.name: random.random((BATCH, node.type.tensor_type.shape.dim[1].dim_value), dtype=np.float32)
        for node in alone.graph.input
    }
    sessions = [(Session(content, cpu), real), (Session(alone.SerializeToString(), cpu), made_up)]
    rates = {}
    for threads in sorted({1, workers(cpu)}):
        batches = 2 * threads
        with ThreadPoolExecutor(threads) as pool:

            def seconds(session: Session, inputs: dict[str, Any], batches: int = batches) -> float:
                return best(lambda: list(pool.map(lambda _: session.run(inputs), range(batches))), 1)

            # Short rounds, in turn: both meet the same machine, and each some of its quiet moments.
            rounds = [[seconds(*one) for one in sessions] for _ in range(150)]
        graph, products = np.min(rounds, axis=0)
        rates[threads] = (batches * BATCH / graph, batches * BATCH / products)
    return rates


def ways_side_by_side(console: Console, path: Path) -> None:
    """Print every way on the same file, and how many labels they count otherwise."""
    table = Table("way", "", "cells", "cells/s", "times torch", "peak MB", title="From h5ad to labels")
    results = {way: in_a_process(way, path) for way in WAYS}
    base = results[TORCH]["cells"] / results[TORCH]["seconds"]
    for way, result in results.items():
        rate, cells = result["cells"] / result["seconds"], f"{result['cells']:,}"
        table.add_row(way, WAYS[way], cells, f"{rate:,.0f}", f"{rate / base:.3g}", f"{result['peak']:,.0f}")
    console.print(table)
    labels = {way: results[way]["labels"] for way in (TORCH, FP32, INT8)}
    for way in (FP32, INT8):
        names = labels[TORCH] | labels[way]
        moved = sum(abs(labels[TORCH].get(name, 0) - labels[way].get(name, 0)) for name in names) // 2
        console.print(f"Labels that {way} counts otherwise than torch: {moved}.")


def cost_against_cells(console: Console, folder: Path, largest: int) -> None:
    """Print time and peak memory of both engines for more and more cells."""
    columns = ("cells", "engine", "seconds", "cells/s", "peak MB", "MB before the first cell")
    table = Table(*columns, title="Time and memory against cells")
    path = folder / "cells.h5ad"
    for cells in (1_000, 10_000, 100_000, 1_000_000):
        if cells > largest or shutil.disk_usage(folder).free < 1.2 * cells * BYTES_A_CELL:
            console.print(f"{cells:,} cells were left out: --largest, or too little room in {folder}.")
            continue
        write_cells(path, cells)
        for way in (TORCH, FP32):
            result = in_a_process(way, path)
            rate, memory = cells / result["seconds"], [f"{result[name]:,.0f}" for name in ("peak", "before")]
            table.add_row(f"{cells:,}", way, f"{result['seconds']:.1f}", f"{rate:,.0f}", *memory)
        path.unlink()
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument(
        "--largest", type=int, default=1_000_000, help="cells of the largest file, for the cost against cells"
    )
    parser.add_argument("--folder", type=Path, help="where to write the cells; by default a temporary folder")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measured(options.measure, options.file)))
        return
    console = Console(width=120)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "ways.h5ad"
        write_cells(path, options.cells)
        ways_side_by_side(console, path)
        path.unlink()
        cost_against_cells(console, Path(folder), options.largest)
    table = Table("threads", "graph, cells/s", "its products alone", "times", title=f"The graph, batches of {BATCH}")
    for threads, (graph, products) in graph_against_products().items():
        table.add_row(str(threads), f"{graph:,.0f}", f"{products:,.0f}", f"{products / graph:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()

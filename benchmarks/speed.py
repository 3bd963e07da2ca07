"""Cells per second from an h5ad file to labels: torch in both forms, and ONNX Runtime, in one run on this machine.

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

CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
BYTES_A_CELL = 13_000
BATCH = 512
MODES = {
    "torch, literal": "m copies over T steps; the classifier alone, on a few cells",
    "torch, collapsed": "spikgpt annotate, float64",
    "ONNX Runtime, fp32": "spikgpt-onnx annotate",
    "ONNX Runtime, int8": "spikgpt-onnx annotate --precision int8",
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

    from spikgpt.cells.reading import read_cells

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


def measured(mode: str, path: Path) -> dict[str, Any]:
    """Annotate a file by one of the ways, and return the seconds, the cells and the labels' counts."""
    before = peak()
    if mode.startswith("ONNX"):
        from spikgpt_onnx.annotator import Annotator

        annotator = Annotator.from_pretrained("pancreas", precision=mode[-4:], provider="cpu")
        start = time.perf_counter()
        annotation = annotator.annotate(path, progress=False)
    else:
        import torch

        from spikgpt import SpikGPT
        from spikgpt.cells.reading import open_cells, read_cells
        from spikgpt.pipeline import annotate

        reference = SpikGPT.from_pretrained("pancreas").reference
        if mode.endswith("literal"):
            vectors = torch.as_tensor(reference.embedder.embed(read_cells(CELLS)).vectors[:32], dtype=torch.float32)
            with torch.inference_mode():
                seconds = best(lambda: reference.classifier(vectors, literal=True), rounds=2)
            return {"cells": len(vectors), "seconds": seconds, "before": before, "peak": peak(), "labels": {}}
        start = time.perf_counter()
        with open_cells(path) as cells:
            annotation = annotate(reference, cells)
    seconds = time.perf_counter() - start
    counts = annotation.counts()
    return {"cells": sum(counts.values()), "seconds": seconds, "before": before, "peak": peak(), "labels": counts}


def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(mode: str, path: Path) -> dict[str, Any]:
    """Return what :func:`measured` says in a process of its own."""
    command = [sys.executable, __file__, "--measure", mode, "--file", str(path)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def products_alone(graph: Any) -> Any:
    """Return a graph of the matrix products of another, each by itself."""
    from onnx import TensorProto, helper, numpy_helper

    from spikgpt_onnx.graph import IR_VERSION, OPSET

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes, inputs, outputs, constants = [], {}, [], []
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

    from spikgpt.cells.align import align
    from spikgpt.cells.expression import find_expression
    from spikgpt.cells.reading import read_cells
    from spikgpt.reference.layout import GRAPH
    from spikgpt_onnx.annotator import Annotator
    from spikgpt_onnx.session import Options, Session

    annotator = Annotator.from_pretrained("pancreas", provider="cpu")
    content = annotator.stored.files[GRAPH]
    aligned = align(find_expression(read_cells(CELLS)), annotator.stored.genes)
    chosen = np.resize(np.arange(len(aligned.totals)), BATCH)
    real = {"counts": aligned.values[chosen].toarray(), "total": aligned.totals[chosen], "found": aligned.found}
    alone = products_alone(onnx.load_from_string(content))
    random = np.random.default_rng(0)
    made_up = {
        node.name: random.random((BATCH, node.type.tensor_type.shape.dim[1].dim_value), dtype=np.float32)
        for node in alone.graph.input
    }
    sessions = [
        (Session(content, Options("cpu")), real),
        (Session(alone.SerializeToString(), Options("cpu")), made_up),
    ]
    rates = {}
    for threads in sorted({1, Options().workers}):
        batches = 2 * threads
        with ThreadPoolExecutor(threads) as pool:

            def seconds(session: Session, inputs: dict[str, Any], batches: int = batches) -> float:
                return best(lambda: list(pool.map(lambda _: session.run(inputs), range(batches))), 1)

            # Short rounds, in turn: both meet the same machine, and each some of its quiet moments.
            rounds = [[seconds(*one) for one in sessions] for _ in range(150)]
        graph, products = np.min(rounds, axis=0)
        rates[threads] = (batches * BATCH / graph, batches * BATCH / products)
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument(
        "--largest", type=int, default=1_000_000, help="cells of the largest file, for the cost against cells"
    )
    parser.add_argument("--folder", type=Path, help="where to write the cells; by default a temporary folder")
    parser.add_argument("--measure", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measured(options.measure, options.file)))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "cells.h5ad"
        write_cells(path, options.cells)
        table = Table("way", "", "cells", "cells/s", "times collapsed", "peak MB", title="From h5ad to labels")
        results = {mode: in_a_process(mode, path) for mode in MODES}
        base = results["torch, collapsed"]["cells"] / results["torch, collapsed"]["seconds"]
        for mode, result in results.items():
            rate = result["cells"] / result["seconds"]
            cells = f"{result['cells']:,}"
            table.add_row(mode, MODES[mode], cells, f"{rate:,.0f}", f"{rate / base:.3g}", f"{result['peak']:,.0f}")
        console.print(table)
        labels = [results[mode]["labels"] for mode in ("torch, collapsed", "ONNX Runtime, fp32", "ONNX Runtime, int8")]
        moved = [
            sum(abs(labels[0].get(name, 0) - other.get(name, 0)) for name in labels[0] | other) for other in labels[1:]
        ]
        console.print(f"Labels counted otherwise than by torch: fp32 {moved[0] // 2}, int8 {moved[1] // 2}.")
        path.unlink()
        table = Table("cells", "seconds", "cells/s", "peak MB", title="ONNX Runtime, fp32: cost against cells")
        for cells in (1_000, 10_000, 100_000, 1_000_000):
            if cells > options.largest or shutil.disk_usage(folder).free < 1.2 * cells * BYTES_A_CELL:
                console.print(f"{cells:,} cells were left out: --largest, or too little room in {folder}.")
                continue
            write_cells(path, cells)
            result = in_a_process("ONNX Runtime, fp32", path)
            path.unlink()
            rate = cells / result["seconds"]
            table.add_row(f"{cells:,}", f"{result['seconds']:.1f}", f"{rate:,.0f}", f"{result['peak']:,.0f}")
        console.print(table)
    table = Table("threads", "graph, cells/s", "its products alone", "times", title=f"The graph, batches of {BATCH}")
    for threads, (graph, products) in graph_against_products().items():
        table.add_row(str(threads), f"{graph:,.0f}", f"{products:,.0f}", f"{products / graph:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()

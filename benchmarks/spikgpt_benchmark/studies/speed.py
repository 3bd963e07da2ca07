"""Measure time and memory of annotation by each engine, of reports, of training and of builds."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.output import write_csv
from spikgpt.cells.reading import read_cells
from spikgpt.embedding.base import Embedding
from spikgpt.options import AnnotateOptions, EngineOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt_benchmark.process import peak_megabytes
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

ROOT = Path(__file__).resolve().parents[3]
CELLS = ROOT / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
# Cells that are written to a file at a time, and cells in a batch of the ONNX graph.
BLOCK, BATCH = 10_000, 512
LITERAL = "torch, literal: m copies over T steps; the classifier only, on 32 cells"
KEYWORDS: dict[str, dict[str, Any]] = {
    LITERAL: {"engine": "torch"},
    "torch, float64": {"engine": "torch"},
    "ONNX Runtime, fp32": {"engine": "onnx", "provider": "cpu"},
    "ONNX Runtime, int8": {"engine": "onnx", "provider": "cpu", "precision": "int8"},
}
# Simulated cells: numbers of genes, of cells of each label, and of cells of each cluster.
GENES, CELLS_PER_LABEL, CELLS_PER_CLUSTER = 1500, 12, 10
# Number of genes of the simulated lung atlas, and the share of its cells that a reference is trained on.
LUNG_GENES, LUNG_SHARE = 20_000, 0.8


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that runs in a separate process, so that its peak memory is measured alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def fastest(run: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest of ``rounds`` calls."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def write_repeated_cells(path: Path, n_cells: int) -> None:
    """Write the demo cells with all genes, repeated until the file has ``n_cells`` cells."""
    demo = read_cells(CELLS)
    rows = np.resize(np.arange(demo.n_obs), min(n_cells, BLOCK))
    block = AnnData(sparse.csr_matrix(demo.X)[rows], var=demo.var[[]])
    if n_cells <= BLOCK:
        block.write_h5ad(path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "block.h5ad"
        block.write_h5ad(part)
        anndata.experimental.concat_on_disk([part] * (n_cells // BLOCK), path, index_unique="-")


def demo_cells(embedding: Embedding) -> AlignedCells:
    """Return the demo cells, aligned to the genes of an embedding."""
    return joined(list(embedding.read(read_cells(CELLS), layer=None, scaling="auto").chunks))


def annotate_file(way: str, path: Path) -> Record:
    """Annotate a file in one way of ``KEYWORDS``; return cells, seconds, memory before and at the peak, and labels."""
    model = SpikGPT.from_pretrained("pancreas", **KEYWORDS[way])
    before = peak_megabytes()
    if way == LITERAL:
        n_cells, seconds = _literal(model.engine)
        labels = {}
    else:
        start = time.perf_counter()
        labels = model.annotate(path, progress=False).counts()
        n_cells, seconds = sum(labels.values()), time.perf_counter() - start
    record = {"way": way, "cells": n_cells, "seconds": seconds, "cells/s": n_cells / seconds}
    return record | {"MB before": before, "peak MB": peak_megabytes(), "labels": labels}


def _literal(engine: Any) -> tuple[int, float]:
    """Run the network with its m copies on 32 demo cells; return the number of cells and the seconds."""
    import torch

    vectors = torch.as_tensor(engine.vectors(demo_cells(engine.embedding).part(slice(32))), dtype=torch.float32)
    with torch.inference_mode():
        return len(vectors), fastest(lambda: engine.classifier(vectors, literal=True), rounds=2)


def speed_records(context: StudyContext) -> Iterator[Record]:
    """Yield time and memory of each way to annotate a file, and the number of labels that differ from torch."""
    with tempfile.TemporaryDirectory(dir=context.cache) as folder:
        for n_cells in context.sizes or (1_000, 10_000, 100_000):
            path = Path(folder) / f"{n_cells}.h5ad"
            write_repeated_cells(path, n_cells)
            expected: dict[str, int] = {}
            for way in KEYWORDS:
                record = in_new_process(annotate_file, way, path)
                labels = record.pop("labels")
                expected = expected or labels
                moved = sum(abs(expected.get(name, 0) - labels.get(name, 0)) for name in expected | labels) // 2
                yield record | {"labels that differ": moved if labels else None}
            path.unlink()


def graph_records(context: StudyContext) -> Iterator[Record]:
    """Yield cells per second of the graph, and of its matrix products alone, for each number of threads."""
    import onnx

    from spikgpt.engines.batches import worker_count
    from spikgpt.engines.onnx_session import Session
    from spikgpt.reference.format import GRAPH

    cpu = EngineOptions(provider="cpu")
    model = SpikGPT.from_pretrained("pancreas", engine="onnx", provider="cpu")
    content, aligned = model.reference.files[GRAPH], demo_cells(model.engine.embedding)
    chosen = np.resize(np.arange(len(aligned.totals)), BATCH)
    counts = {
        "counts": aligned.values[chosen].toarray(),
        "total": aligned.totals[chosen],
        "found": aligned.genes_present,
    }
    products, random = _products_only(onnx.load_from_string(content)), np.random.default_rng(0)
    widths = {node.name: node.type.tensor_type.shape.dim[1].dim_value for node in products.graph.input}
    simulated = {name: random.random((BATCH, width), dtype=np.float32) for name, width in widths.items()}
    sessions = [(Session(content, cpu), counts), (Session(products.SerializeToString(), cpu), simulated)]
    for threads in sorted({1, worker_count(cpu)}):
        with ThreadPoolExecutor(threads) as pool:

            def seconds(session: Session, inputs: dict[str, Any], batches: int = 2 * threads) -> float:
                return fastest(lambda: list(pool.map(lambda _: session.run(inputs), range(batches))), 1)

            # Short alternating rounds expose both sessions to the same load of the machine.
            rounds = np.array([[seconds(*session) for session in sessions] for _ in range(150)])
        graph, alone = 2 * threads * BATCH / rounds.min(axis=0)
        yield {"threads": threads, "graph, cells/s": graph, "products, cells/s": alone, "ratio": alone / graph}


def _products_only(graph: Any) -> Any:
    """Return a graph with only the matrix products of another graph, not connected to each other."""
    from onnx import TensorProto, helper, numpy_helper

    from spikgpt.engines.read_graph import IR_VERSION, OPSET

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes: list[Any] = []
    inputs: dict[str, Any] = {}
    outputs, constants = [], []
    for node in graph.graph.node:
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        # In layers with transposed results, the weights are the first input.
        weight = weights[node.input[0]].T if node.input[0] in weights else weights[node.input[1]]
        number, (rows, columns) = len(nodes), weight.shape
        inputs[f"x{rows}"] = helper.make_tensor_value_info(f"x{rows}", TensorProto.FLOAT, ["cells", rows])
        nodes.append(helper.make_node("MatMul", [f"x{rows}", f"w{number}"], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, ["cells", columns]))
        constants.append(numpy_helper.from_array(np.ascontiguousarray(weight), f"w{number}"))
    products = helper.make_graph(nodes, "products", list(inputs.values()), outputs, constants)
    return helper.make_model(products, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def simulated_cells(n_labels: int, n_cells: int, seed: int = 0) -> AnnData:
    """Return simulated counts; each type has 20 genes with higher expression."""
    random = np.random.default_rng(seed)
    mean = np.random.default_rng(0).gamma(0.3, 1.0, GENES)
    own = np.random.default_rng(1).integers(GENES, size=(n_labels, 20))
    codes = np.arange(n_cells) % n_labels
    rates = np.tile(mean, (n_cells, 1))
    np.add.at(rates, (np.arange(n_cells)[:, None], own[codes]), 5.0)
    obs = pd.DataFrame({"type": [f"type {code}" for code in codes]}, index=[f"cell {n}" for n in range(n_cells)])
    var = pd.DataFrame(index=[f"GENE{n}" for n in range(GENES)])
    return AnnData(sparse.csr_matrix(random.poisson(rates).astype(np.float32)), obs=obs, var=var)


class StepTimer:
    """Timer that records the CPU seconds of each step, and the peak memory of the process so far."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._start = time.process_time()

    def end_step(self, step: str) -> None:
        """Add a record of the time since the last step."""
        record = {"step": step, "CPU seconds": time.process_time() - self._start, "peak MB": peak_megabytes()}
        self.records.append(record)
        self._start = time.process_time()


def many_labels(n_labels: int) -> list[Record]:
    """Train, annotate and evaluate with many labels; return a record for each step."""
    from spikgpt.training.train import train

    cells, query = simulated_cells(n_labels, n_labels * CELLS_PER_LABEL), simulated_cells(n_labels, 4000, seed=5)
    timer = StepTimer()
    model = SpikGPT(train(cells, "type", options=TrainOptions(name="labels")))
    timer.end_step("train")
    model.annotate(query, progress=False)
    timer.end_step("annotate 4000 cells")
    model.evaluate(query, "type", progress=False)
    timer.end_step("evaluate 4000 cells")
    return timer.records


def many_clusters(n_clusters: int) -> list[Record]:
    """Report on many clusters of annotated cells; return a record for each step."""
    from spikgpt.report.clusters import summarise

    model, few = SpikGPT.from_pretrained("pancreas"), simulated_cells(20, 1000, seed=5)
    few.var_names = [*model.reference.genes.symbols, *few.var_names][:GENES]
    annotation = annotate(model.reference, model.engine, few, AnnotateOptions(progress=False))
    # The cells are repeated. A tenth of the clusters is Unknown and can get marker genes.
    rows = np.arange(n_clusters * CELLS_PER_CLUSTER) % few.n_obs
    query = AnnData(few.X[rows], obs=pd.DataFrame(index=[f"cell {n}" for n in range(len(rows))]), var=few.var)
    query.obs["cluster"] = (np.arange(len(rows)) // CELLS_PER_CLUSTER).astype(str)
    names = ("best", "broad", "confidence", "probabilities", "typicality", "empty")
    repeated = {name: getattr(annotation, name)[rows] for name in names}
    rejected = np.repeat(np.arange(n_clusters) % 10 == 0, CELLS_PER_CLUSTER)
    annotation = replace(annotation, obs_names=query.obs_names, rejected=rejected, **repeated)
    timer = StepTimer()
    report = summarise(annotation, query, "cluster")
    timer.end_step("report on clusters")
    with tempfile.TemporaryDirectory() as folder:
        write_csv([report.table()], Path(folder) / "clusters.csv", index=False)
    timer.end_step("table")
    return timer.records


def build_lung(n_cells: int) -> list[Record]:
    """Build a reference from the cells of a simulated lung atlas, with 5% of 20,000 genes in each cell."""
    sys.path.insert(0, str(ROOT))
    from spikgpt_recipes.plan import plan_build
    from spikgpt_recipes.recipe import find_recipe, read_recipe
    from spikgpt_recipes.steps import Build
    from tests.mirror import lung

    recipe, timer = find_recipe("lung"), StepTimer()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lung(folder / "mirror", round(n_cells / LUNG_SHARE), LUNG_GENES)
        timer.end_step("simulate")
        plan = plan_build(read_recipe(recipe), synthetic=True)
        build = Build(plan, recipe, folder / "lung", folder / "cache", str(folder / "mirror"))
        build.run(on_step=lambda report: timer.end_step(report.step))
    return timer.records


def _load_suite(title: str, function: Callable[[int], list[Record]], column: str, sizes: tuple[int, ...]) -> StudySuite:
    """Return a suite that runs a function with several sizes, each in a separate process."""

    def records(context: StudyContext) -> Iterator[Record]:
        for size in context.sizes or sizes:
            for record in in_new_process(function, size):
                yield {column: size, **record}

    return StudySuite(title, records, (column, "step"))


SUITES = {
    "speed": StudySuite("from h5ad to labels", speed_records, ("way", "cells")),
    "graph": StudySuite("the graph and its matrix products", graph_records, ("threads",)),
    "many-labels": _load_suite("references of many labels", many_labels, "labels", (100, 300, 1000)),
    "many-clusters": _load_suite("reports on many clusters", many_clusters, "clusters", (1000, 4000, 12000)),
    "build": _load_suite("builds of a lung atlas", build_lung, "cells", (10_000, 30_000, 100_000, 310_000)),
}

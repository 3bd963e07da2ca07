"""Read, run and verify altered references: ``python -m tests.fuzz.references --count 1000 --seed 0``.

Allowed outcomes of an altered reference:

- The reader, an engine or verify refuses the reference with a message of one line.
- The labels are those of the unaltered reference.
- Verify accepts the reference as another valid one, and both engines agree on the labels.

Failures are a crash, another exception, a hang, engines that disagree, confident labels from non-finite numbers, too
much memory, and a file outside of the folders given.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt.cells.reading import read_cells
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.errors import SpikGPTError
from spikgpt.options import AnnotateOptions, EngineOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import card_text, read_reference
from spikgpt.reference.format import GRAPH, GRAPHS, MANIFEST, PARITY, graph_sources
from spikgpt.sharing import verify
from spikgpt.types import UNKNOWN
from spikgpt_benchmark.process import peak_megabytes
from spikgpt_onnx import exporter
from spikgpt_onnx.parity import ExportableReference, golden_cells
from spikgpt_onnx.rebuild_graph import build_graph, network_from_reference
from tests.damage import listed
from tests.fuzz.alter_references import KINDS, Files, choice, replace_file
from tests.fuzz.cells import CELLS, FuzzWorker, WorkerResult
from tests.fuzz.outcome_table import OutcomeCounts, count_outcomes, run

DATA = CELLS.parent
QUERY = 120
# Seconds that one reference may take with both engines and verify, and MiB by which the peak memory may grow.
PATIENCE, MEMORY = 60.0, 1024
GOOD = ("refused", "refused by an engine or verify", "same labels", "another reference")
# Largest share of cells with labels that differ between the engines: in float32 and float64, a potential near the
# threshold can round to either side.
ROUNDING = 0.05


class ReferenceFuzzer:
    """Unaltered references, a process that checks altered copies, and a folder for both."""

    def __init__(self, folder: Path, *, scgpt: bool = False) -> None:
        self.folder = folder
        os.environ["SPIKGPT_CACHE"] = str(folder / "cache")
        self.sources = {"counts": read_reference(DATA.parents[1] / "spikgpt" / "references" / "pancreas").files}
        self.sources["embedding"] = self._exported(DATA / "format_2" / "embedded")
        if scgpt:
            self.sources["scGPT"] = self._trained_on_scgpt()
        (folder / "working").mkdir()
        (folder / "working" / "secret").write_bytes(b"secret")
        self.worker = FuzzWorker(str(folder), work, PATIENCE)
        self.labels = {}
        for name, files in self.sources.items():
            self._write(listed(dict(files)))
            # Check each reference twice, because the first check uses memory for modules and compiled functions.
            for _ in range(2):
                result = self.worker.process(folder / "reference")
            assert result.outcome == "labelled", (name, result)
            self.labels[name] = result.labels

    def _exported(self, source: Path) -> Files:
        reference = read_reference(source)
        exporter.export(ExportableReference(reference, torch_engine(reference)), self.folder / "exported")
        files = read_reference(self.folder / "exported").files
        shutil.rmtree(self.folder / "exported")
        return files

    def _trained_on_scgpt(self) -> Files:
        from spikgpt.engines.scgpt.source import open_scgpt
        from spikgpt.training.train import train

        cells = read_cells(DATA / "pancreas_baron_human1.h5ad")
        cells = cells[cells.obs["cell_type"].isin(["alpha", "beta", "delta", "ductal"])][:300].copy()
        source = open_scgpt(DATA / "scgpt_baron", max_length=50, bundled=True)
        reference = train(cells, "cell_type", embedder=source, options=TrainOptions(name="scgpt", recipe="paper"))
        engine = torch_engine(reference, source=source)
        exporter.export(ExportableReference(reference, engine), self.folder / "exported")
        files = read_reference(self.folder / "exported").files
        shutil.rmtree(self.folder / "exported")
        return files

    def _write(self, files: Files) -> None:
        target = self.folder / "reference"
        for path in target.rglob("*") if target.exists() else ():
            with suppress(OSError):
                path.chmod(0o700)
        shutil.rmtree(target, ignore_errors=True)
        for name, content in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)

    def case(self, number: int, seed: int) -> tuple[str, str]:
        """Write an altered reference; return the name of its source and the kind of alteration."""
        random = np.random.default_rng([seed, number])
        source = choice(random, sorted(self.sources))
        files = dict(self.sources[source])
        for name in (GRAPHS["fp16"], GRAPHS["int8"]):  # removed for speed
            files.pop(name, None)
        if PARITY in files:
            files = with_report(files)
        kind = choice(random, [*KINDS, "JSON", "JSON", "tensor", "tensor", "graph", "graph", "no regular file"])
        if kind == "no regular file":
            self._write(listed(files))
            replace_file(self.folder / "reference", random)
            return source, kind
        files = listed(files) if random.random() < 0.15 else files
        files = KINDS[kind](files, random)
        draw = random.random()
        if draw < 0.9 and MANIFEST not in files:
            files = with_rebuilt_graph(files) if draw < 0.7 and kind in ("JSON", "tensor") else files
            files = listed(with_report(files))
        self._write(files)
        return source, kind

    def run(self, source: str) -> str:
        """Check the altered reference; return the outcome, and the reason of a failure."""
        result = self.worker.process(self.folder / "reference")
        outside = {path.name for path in self.folder.iterdir()} - {"reference", "cache", "working"}
        outside |= {path.name for path in (self.folder / "working").iterdir()} - {"secret"}
        if outside:
            return f"file outside: {outside}"
        if result.outcome != "labelled":
            return f"{result.outcome}: {result.message}" if result.outcome not in GOOD else result.outcome
        return "same labels" if result.labels == self.labels[source] else "another reference"


def with_report(files: Files) -> Files:
    """Update the report on the graphs: list the sha256 of each graph and of the files that it was built from."""
    try:
        report = json.loads(files[PARITY])
        graphs = {name: content for name, content in files.items() if name.endswith(".onnx")}
        report["graphs"] = {
            name: report["graphs"].get(name, {}) | {"sha256": hashlib.sha256(content).hexdigest()}
            for name, content in graphs.items()
        }
        return files | {PARITY: json.dumps(report | {"made_from": graph_sources(files)}).encode()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return files


def with_rebuilt_graph(files: Files) -> Files:
    """Rebuild the card and the graph from the altered files; return the files unchanged if this fails."""
    try:
        with np.errstate(all="ignore"):
            reference = read_reference(listed({n: c for n, c in files.items() if not n.startswith("onnx/")}))
            graph = build_graph(network_from_reference(reference), GRAPH).SerializeToString()
            return files | {"README.md": card_text(files), GRAPH: graph}
    except Exception:  # noqa: BLE001, altered files raise many types
        return files


def work(folder: str, pipe: Connection) -> None:
    """Check the references whose folders come through a pipe; runs in a separate process."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.chdir(Path(folder) / "working")
    os.environ["SPIKGPT_CACHE"] = str(Path(folder) / "cache")
    exporter.golden_cells = partial(golden_cells, cells=64)  # type: ignore[attr-defined]
    cells = read_cells(CELLS)[:QUERY].copy()
    pipe.send("ready")
    while True:
        path = pipe.recv()
        before = peak_megabytes()
        try:
            result = check_reference(path, cells)
        except Exception:  # noqa: BLE001, any other exception is a failure
            result = WorkerResult("traceback", traceback.format_exc()[-2500:])
        growth = peak_megabytes() - before
        if growth > MEMORY:
            result = WorkerResult("memory", f"{growth:.0f} MiB more")
        pipe.send(tuple(result))


def check_reference(path: Path, cells: AnnData) -> WorkerResult:
    """Read a reference, annotate cells with both engines, and verify the reference."""
    messages, labels = [], {}
    try:
        reference = read_reference(path)
    except SpikGPTError as error:
        return WorkerResult("refused", message_of(error))
    query = cells
    if reference.embedder["kind"] == "obsm":
        key, dim = reference.embedder["key"], reference.config.input_dim
        query = AnnData(np.ones((QUERY, 1), dtype=np.float32), obsm={key: np.eye(QUERY, dim) + 0.1})
    for engine in ("torch", "onnx"):
        try:
            opened = open_engine(reference, EngineOptions(engine=engine, threads=1))
            annotation = annotate(reference, opened, query, AnnotateOptions(progress=False))
            annotation.table(), annotation.uns(query), repr(annotation), annotation._repr_html_()
        except SpikGPTError as error:
            messages.append(message_of(error))
            continue
        known = annotation.labels != UNKNOWN
        justified = np.isfinite(annotation.probabilities).all(axis=1) & (annotation.confidence > 0)
        if (known & ~justified).any() or (annotation.confidence > 1 + 1e-6).any():
            return WorkerResult(
                "confident without finite numbers", f"{int((known & ~justified).sum())} cells by {engine}"
            )
        labels[engine] = tuple(annotation.labels.tolist())
    try:
        verify(path)
    except SpikGPTError as error:
        messages.append(message_of(error))
    if messages:
        return WorkerResult("refused by an engine or verify", messages[0])
    differing = sum(
        torch_label != onnx_label for torch_label, onnx_label in zip(labels["torch"], labels["onnx"], strict=True)
    )
    if differing > ROUNDING * QUERY:
        return WorkerResult("engines disagree", f"on {differing} of {QUERY} cells")
    return WorkerResult("labelled", labels=labels["torch"])


def message_of(error: SpikGPTError) -> str:
    """Return the message of an error; assert that it is one printable line of less than 10,000 characters."""
    text = str(error)
    assert text.isprintable(), f"not a printable line: {text!r}"
    assert len(text) < 10_000, f"{len(text)} characters: {text[:300]}"
    return text


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[OutcomeCounts, list[str]]:
    """Return the number of each outcome by kind of alteration, and the failures."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = ReferenceFuzzer(Path(folder), scgpt=count >= 100)

        def attempt(number: int) -> tuple[str, str, str]:
            source, kind = fuzzer.case(number, seed)
            return f"{kind} ({source})", fuzzer.run(source), f"{kind}, {source}"

        outcomes = count_outcomes(count, GOOD, attempt, progress=progress)
        fuzzer._write({})
    return outcomes


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 1000))

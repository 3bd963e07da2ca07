"""Forged references through both engines and verify: ``python -m tests.fuzz.references --count 1000 --seed 0``.

A forged reference is refused in one line, by reading it, by an engine or by verify; or it gives the labels that it gave
before; or it is another reference, on whose labels both engines agree, and which verify accepts. Anything else is a
failure: a crash, another exception, a hang, engines that disagree, confident labels that come from no finite numbers,
too much memory, and a file outside of the folders given.
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
from tests.fuzz.cells import CELLS, Answer, Worker
from tests.fuzz.forging import KINDS, Files, in_place, one
from tests.fuzz.outcomes import Counted, run, tally

DATA = CELLS.parent
QUERY = 120
# Seconds that a reference may take, through both engines and verify, and MiB beyond what a sound one takes.
PATIENCE, MEMORY = 60.0, 1024
GOOD = ("refused", "refused by an engine or verify", "same labels", "another reference")
# So many cells may differ between float32 and float64, where a potential is within rounding of the threshold.
ROUNDING = 0.05


class Fuzzer:
    """Sound references, a process to try forged copies in, and a folder for both."""

    def __init__(self, folder: Path, *, scgpt: bool = False) -> None:
        self.folder = folder
        os.environ["SPIKGPT_CACHE"] = str(folder / "cache")
        self.sources = {"counts": read_reference(DATA.parents[1] / "spikgpt" / "references" / "pancreas").files}
        self.sources["embedding"] = self._exported(DATA / "format_2" / "embedded")
        if scgpt:
            self.sources["scGPT"] = self._on_scgpt()
        (folder / "here").mkdir()
        (folder / "here" / "secret").write_bytes(b"secret")
        self.worker = Worker(str(folder), work, PATIENCE)
        self.sound = {}
        for name, files in self.sources.items():
            self._write(listed(dict(files)))
            # The first time, modules are loaded and functions compiled.
            for _ in range(2):
                answer = self.worker.answer(folder / "reference")
            assert answer.outcome == "labelled", (name, answer)
            self.sound[name] = answer.labels

    def _exported(self, source: Path) -> Files:
        reference = read_reference(source)
        exporter.export(ExportableReference(reference, torch_engine(reference)), self.folder / "exported")
        files = read_reference(self.folder / "exported").files
        shutil.rmtree(self.folder / "exported")
        return files

    def _on_scgpt(self) -> Files:
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
        """Write a forged reference; return which one it was and how it was forged."""
        random = np.random.default_rng([seed, number])
        source = one(random, sorted(self.sources))
        files = dict(self.sources[source])
        for name in (GRAPHS["fp16"], GRAPHS["int8"]):  # for speed; the others stand for them
            files.pop(name, None)
        if PARITY in files:
            files = reforged(files)
        kind = one(random, [*KINDS, "JSON", "JSON", "tensor", "tensor", "graph", "graph", "no regular file"])
        if kind == "no regular file":
            self._write(listed(files))
            in_place(self.folder / "reference", random)
            return source, kind
        files = listed(files) if random.random() < 0.15 else files
        files = KINDS[kind](files, random)
        careful = random.random()
        if careful < 0.9 and MANIFEST not in files:
            files = rebuilt(files) if careful < 0.7 and kind in ("JSON", "tensor") else files
            files = listed(reforged(files))
        self._write(files)
        return source, kind

    def run(self, source: str) -> str:
        """Return what became of a forged reference."""
        answer = self.worker.answer(self.folder / "reference")
        outside = {path.name for path in self.folder.iterdir()} - {"reference", "cache", "here"}
        outside |= {path.name for path in (self.folder / "here").iterdir()} - {"secret"}
        if outside:
            return f"file outside: {outside}"
        if answer.outcome != "labelled":
            return f"{answer.outcome}: {answer.said}" if answer.outcome not in GOOD else answer.outcome
        return "same labels" if answer.labels == self.sound[source] else "another reference"


def reforged(files: Files) -> Files:
    """State the graphs that are there, and the files that they were made from, in their report."""
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


def rebuilt(files: Files) -> Files:
    """Make the card and the graph anew, of what else was forged, where that can be read."""
    try:
        with np.errstate(all="ignore"):
            reference = read_reference(listed({n: c for n, c in files.items() if not n.startswith("onnx/")}))
            graph = build_graph(network_from_reference(reference), GRAPH).SerializeToString()
            return files | {"README.md": card_text(files), GRAPH: graph}
    except Exception:  # noqa: BLE001, a forger tries again
        return files


def work(folder: str, pipe: Connection) -> None:
    """Answer for the references that come through a pipe, in a process of its own."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.chdir(Path(folder) / "here")
    os.environ["SPIKGPT_CACHE"] = str(Path(folder) / "cache")
    exporter.golden_cells = partial(golden_cells, cells=64)  # type: ignore[attr-defined]
    cells = read_cells(CELLS)[:QUERY].copy()
    pipe.send("ready")
    while True:
        path = pipe.recv()
        before = peak_megabytes()
        try:
            answer = tried(path, cells)
        except Exception:  # noqa: BLE001, that is what is looked for
            answer = Answer("traceback", traceback.format_exc()[-2500:])
        grown = peak_megabytes() - before
        if grown > MEMORY:
            answer = Answer("memory", f"{grown:.0f} MiB more")
        pipe.send(tuple(answer))


def tried(path: Path, cells: AnnData) -> Answer:
    """Read, run and verify a reference."""
    refused, labels = [], {}
    try:
        reference = read_reference(path)
    except SpikGPTError as error:
        return Answer("refused", said(error))
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
            refused.append(said(error))
            continue
        sure = annotation.labels != UNKNOWN
        sound = np.isfinite(annotation.probabilities).all(axis=1) & (annotation.confidence > 0)
        if (sure & ~sound).any() or (annotation.confidence > 1 + 1e-6).any():
            return Answer("sure of nothing", f"{int((sure & ~sound).sum())} cells by {engine}")
        labels[engine] = tuple(annotation.labels.tolist())
    try:
        verify(path)
    except SpikGPTError as error:
        refused.append(said(error))
    if refused:
        return Answer("refused by an engine or verify", refused[0])
    differ = sum(one != other for one, other in zip(labels["torch"], labels["onnx"], strict=True))
    if differ > ROUNDING * QUERY:
        return Answer("engines disagree", f"on {differ} of {QUERY} cells")
    return Answer("labelled", labels=labels["torch"])


def said(error: SpikGPTError) -> str:
    """Return what an error says, which is one line that a terminal can show."""
    text = str(error)
    assert text.isprintable(), f"not a printable line: {text!r}"
    assert len(text) < 10_000, f"{len(text)} characters: {text[:300]}"
    return text


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[Counted, list[str]]:
    """Return how often each way to forge came to each outcome, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), scgpt=count >= 100)

        def attempt(number: int) -> tuple[str, str, str]:
            source, kind = fuzzer.case(number, seed)
            return f"{kind} ({source})", fuzzer.run(source), f"{kind}, {source}"

        found = tally(count, GOOD, attempt, progress=progress)
        fuzzer._write({})
    return found


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 1000))

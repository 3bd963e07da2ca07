"""Annotate damaged files of cells with both engines: ``python -m tests.fuzz.cells --count 500 --seed 0``.

A damaged file must get the labels of the undamaged file, or be refused with a message of one line. Failures are a
crash, another exception, a hang, an output that anndata cannot open, a label with the wrong cell name, and data read
from another file through a link. Both engines must refuse the same files.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import anndata
import h5py
import numpy as np
import zarr
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.output import write_copy
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.embedding.base import Engine
from spikgpt.engines.opening import open_engine
from spikgpt.errors import SpikGPTError
from spikgpt.options import AnnotateOptions, EngineName, EngineOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference
from spikgpt.sharing import open_reference
from tests.fuzz import damage_cells
from tests.fuzz.outcome_table import OutcomeCounts, count_outcomes, run

CELLS = Path(__file__).resolve().parents[1] / "data" / "pancreas_baron_human2_human4.h5ad"
LAYOUTS = [(layout, suffix) for layout in ("rows", "columns", "dense", "raw") for suffix in (".h5ad", ".zarr")]
# Seconds for one file on a busy machine. Some damaged files make the HDF5 library loop without end.
PATIENCE = 60.0
GOOD = ("refused", "labelled")


class WorkerResult(NamedTuple):
    """Result of one engine for one file: ``refused`` with a message, ``labelled`` with labels, or a failure."""

    outcome: str
    message: str = ""
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DamagedFile:
    """A damaged file; ``may_change`` if the damage can change expression values without an error."""

    number: int
    kind: str
    suffix: str
    may_change: bool
    path: Path


class CellFileFuzzer:
    """Undamaged files of four layouts in two formats, both engines, and a folder for damaged copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference = open_reference("pancreas")
        self.workers = {name: FuzzWorker(name) for name in ("torch", "onnx")}
        self.cells = self._undamaged_cells()
        (folder / "secret.h5").unlink(missing_ok=True)
        with h5py.File(folder / "secret.h5", "w") as file:
            file["X"] = np.ones((120, 1200), dtype=np.float32)
        undamaged = {layout: self.workers["onnx"].process(self._source(layout, ".h5ad")) for layout in ("rows", "raw")}
        assert all(result.outcome == "labelled" for result in undamaged.values()), undamaged
        self.expected = dict(zip(undamaged["rows"].names, undamaged["rows"].labels, strict=True))

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers.values():
            worker.close()

    def _undamaged_cells(self) -> AnnData:
        """Return 120 real cells with 1200 genes."""
        cells = read_cells(CELLS)[:120].copy()
        known = [name for name in cells.var_names if name in set(self.reference.genes.symbols)]
        unknown = [name for name in cells.var_names if name not in set(known)]
        cells = cells[:, (known + unknown)[:1200]]
        return AnnData(
            cells.X.astype(np.float32), cells.obs.copy(), cells.var.copy(), obsm={"X_pca": np.ones((120, 2))}
        )

    def _source(self, layout: str, suffix: str) -> Path:
        """Return the path of the undamaged file of a layout and format; write the file at the first call."""
        path = self.folder / f"{layout}{suffix}"
        if path.exists():
            return path
        cells = self.cells.copy()
        if layout == "columns":
            cells.X = sparse.csc_matrix(cells.X)
        elif layout == "dense":
            cells.X = cells.X.toarray()
        elif layout == "raw":
            cells.raw, cells.layers["counts"] = cells.copy(), cells.X.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (cells.write_h5ad if suffix == ".h5ad" else cells.write_zarr)(path)
        return path

    def case(self, number: int, seed: int) -> DamagedFile:
        """Damage a copy of an undamaged file."""
        random = np.random.default_rng([seed, number])
        layout, suffix = LAYOUTS[random.integers(len(LAYOUTS))]
        path = self.folder / f"damaged{suffix}"
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        source = self._source(layout, suffix)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
        kinds = [
            *damage_cells.STRUCTURE,
            *damage_cells.BYTES,
            *(["links"] if suffix == ".h5ad" else ["metadata", "file missing"]),
        ]
        kind = kinds[random.integers(len(kinds))]
        may_change = damage_cells.STRUCTURE[kind][1] if kind in damage_cells.STRUCTURE else kind != "links"
        try:
            self._damage(path, kind, random)
        except (OSError, ValueError, KeyError, TypeError, NotImplementedError, AttributeError, OverflowError):
            # This kind of damage does not fit this file, so flip bytes instead.
            kind = "bytes flipped"
            self._damage(path, kind, random)
        return DamagedFile(number, kind, suffix, may_change, path)

    def _damage(self, path: Path, kind: str, random: np.random.Generator) -> None:
        if path.is_file() and (kind in damage_cells.STRUCTURE or kind == "links"):
            with h5py.File(path, "r+") as file:
                (damage_cells.links if kind == "links" else damage_cells.STRUCTURE[kind][0])(file, random)
            return
        if kind in damage_cells.STRUCTURE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                damage_cells.STRUCTURE[kind][0](
                    _ZarrGroup(zarr.open_group(path, mode="r+", use_consolidated=False)), random
                )
            return
        files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
        if kind == "metadata":
            files = [
                part for part in files if part.name in (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
            ]
            damage_cells.metadata(files[random.integers(len(files))], random)
        elif kind == "file missing":
            files[random.integers(len(files))].unlink()
        else:
            damage_cells.BYTES[kind](files[random.integers(len(files))], random)

    def run(self, case: DamagedFile) -> str:
        """Annotate a damaged file with both engines; return the outcome, and the reason of a failure."""
        results = {name: worker.process(case.path) for name, worker in self.workers.items()}
        for result in results.values():
            if result.outcome not in GOOD:
                return f"{result.outcome}: {result.message}"
            if result.outcome == "labelled":
                changed = sum(
                    self.expected.get(n, label) != label for n, label in zip(result.names, result.labels, strict=True)
                )
                if len(result.names) != len(self.expected) or (changed and not case.may_change):
                    return f"wrong name: {changed} labels differ, {len(result.names)} cells"
        if len({result.outcome for result in results.values()}) > 1:
            return f"engines disagree: {[(name, a.outcome, a.message[:200]) for name, a in results.items()]}"
        return next(iter(results.values())).outcome


class FuzzWorker:
    """A process that handles files one by one; after a crash or a hang, a new process handles the next file."""

    def __init__(
        self, engine: str, target: Callable[[str, Connection], None] | None = None, patience: float = PATIENCE
    ) -> None:
        self._engine, self._target, self._patience = engine, target or work, patience
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=self._target, args=(self._engine, theirs), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def process(self, path: Path) -> WorkerResult:
        """Let the process handle a file, and return the result; the default ``target`` annotates the file."""
        self._pipe.send(path)
        try:
            if self._pipe.poll(self._patience):
                return WorkerResult(*self._pipe.recv())
            failure = WorkerResult("hang", f"more than {self._patience:g} s")
        except EOFError:
            self._process.join()
            failure = WorkerResult("crash", f"exit {self._process.exitcode}")
        self._process.kill()
        self._start()
        return failure


def work(name: str, pipe: Connection) -> None:
    """Annotate the files whose paths come through a pipe; runs in a separate process."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    reference = open_reference("pancreas")
    engine = open_engine(reference, EngineOptions(engine=cast(EngineName, name), threads=1))
    pipe.send("ready")
    while True:
        path = pipe.recv()
        try:
            result = annotated(reference, engine, path)
        except Exception:  # noqa: BLE001, any other exception is a failure
            result = WorkerResult("traceback", traceback.format_exc()[-1500:])
        pipe.send(tuple(result))


def annotated(reference: Reference, engine: Engine, path: Path) -> WorkerResult:
    """Annotate a file and write a copy with the labels beside it, as ``spikgpt annotate`` does."""
    out = path.parent / f"out{path.suffix}"
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    try:
        with open_cells(path) as cells:
            options = AnnotateOptions(progress=False)
            annotation = annotate(reference, engine, cells, options)
            uns = annotation.uns(cells)
        write_copy(path, out, obs=dict(annotation.obs()), obsm=annotation.obsm(), uns=uns)
    except SpikGPTError as error:
        return WorkerResult("several lines" if "\n" in str(error).strip() else "refused", str(error))
    try:
        written = _anndata_reads(out)
    except Exception as error:  # noqa: BLE001, anndata raises many types
        with suppress(Exception):
            # Consolidated metadata of the source may list deleted files.
            _anndata_reads(path if path.is_file() else zarr.open_group(path, mode="r", use_consolidated=False))
            return WorkerResult("unreadable output", repr(error))
        # Parts of the source that anndata cannot read are copied unchanged.
        with open_cells(out) as written:
            pass
    names, labels = tuple(written.obs_names), tuple(written.obs["spikgpt_label"].astype(str))
    if tuple(annotation.obs_names) != names or tuple(annotation.labels) != labels:
        return WorkerResult("wrong name", "the output has other cell names than the annotation")
    return WorkerResult("labelled", labels=labels, names=names)


def _anndata_reads(path: Path | zarr.Group) -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        h5ad = isinstance(path, Path) and path.suffix == ".h5ad"
        return (anndata.read_h5ad if h5ad else anndata.read_zarr)(path)


class _ZarrGroup:
    """A zarr group with the methods of an h5py group that damage_cells uses."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def __getitem__(self, name: str) -> Any:
        item = self._group[name]
        return item if hasattr(item, "shape") else _ZarrGroup(item)

    def __delitem__(self, name: str) -> None:
        del self._group[name]

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def __iter__(self) -> Any:
        return iter(sorted(self._group.keys()))

    def get(self, name: str) -> Any:
        return self[name] if name in self else None

    def visititems(self, visit: Any) -> None:
        # Members are sorted, because zarr has no fixed order and a seed must always give the same damage.
        for name, item in sorted(self._group.members(max_depth=None), key=lambda member: str(member[0])):
            visit(name, item)

    def create_dataset(self, name: str, data: Any, dtype: Any = None) -> Any:
        values = np.asarray(data).astype(str) if dtype is not None else np.asarray(data)
        return self._group.create_array(name, data=values)

    def move(self, source: str, target: str) -> None:
        folder = Path(self._group.store.root) / self._group.path
        (folder / source).rename(folder / target)


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[OutcomeCounts, list[str]]:
    """Return the number of each outcome by kind of damage, and the failures."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = CellFileFuzzer(Path(folder))

        def attempt(number: int) -> tuple[str, str, str]:
            case = fuzzer.case(number, seed)
            return f"{case.kind} ({case.suffix})", fuzzer.run(case), f"{case.kind}, {case.suffix}"

        outcomes = count_outcomes(count, GOOD, attempt, progress=progress)
        fuzzer.close()
    return outcomes


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 500))

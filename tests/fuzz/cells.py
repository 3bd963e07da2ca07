"""Damaged files of cells through both engines, end to end: ``python -m tests.fuzz.cells --count 500 --seed 0``.

A damaged file is labelled as if it were sound, or refused with one line. Anything else is a failure: a crash, another
exception, a hang, an output that anndata cannot open, a label under a wrong name, engines that do not refuse the same
files, and a file that is read though it lies elsewhere.
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
from tests.fuzz import damage
from tests.fuzz.outcomes import Counted, run, tally

CELLS = Path(__file__).resolve().parents[1] / "data" / "pancreas_baron_human2_human4.h5ad"
LAYOUTS = [(layout, suffix) for layout in ("rows", "columns", "dense", "raw") for suffix in (".h5ad", ".zarr")]
# Seconds that a file may take, on a busy machine; over some the HDF5 library may spend them without end.
PATIENCE = 60.0
GOOD = ("refused", "labelled")


class Answer(NamedTuple):
    """What one engine made of a file: ``refused`` with what it said, ``labelled`` with what, or a failure."""

    outcome: str
    said: str = ""
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A damaged file: how it was damaged, and whether its values may have changed unnoticed."""

    number: int
    kind: str
    suffix: str
    may_change: bool
    path: Path


class Fuzzer:
    """Sound files of four layouts in two formats, the engines, and a folder to damage copies in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference = open_reference("pancreas")
        self.workers = {name: Worker(name) for name in ("torch", "onnx")}
        self.cells = self._sound()
        (folder / "secret.h5").unlink(missing_ok=True)
        with h5py.File(folder / "secret.h5", "w") as file:
            file["X"] = np.ones((120, 1200), dtype=np.float32)
        sound = {layout: self.workers["onnx"].answer(self._source(layout, ".h5ad")) for layout in ("rows", "raw")}
        assert all(answer.outcome == "labelled" for answer in sound.values()), sound
        self.expected = dict(zip(sound["rows"].names, sound["rows"].labels, strict=True))

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers.values():
            worker.close()

    def _sound(self) -> AnnData:
        """Return 120 real cells with 1200 genes."""
        cells = read_cells(CELLS)[:120].copy()
        known = [name for name in cells.var_names if name in set(self.reference.genes.symbols)]
        others = [name for name in cells.var_names if name not in set(known)]
        cells = cells[:, (known + others)[:1200]]
        return AnnData(
            cells.X.astype(np.float32), cells.obs.copy(), cells.var.copy(), obsm={"X_pca": np.ones((120, 2))}
        )

    def _source(self, layout: str, suffix: str) -> Path:
        """Return a sound file, written when it is first asked for."""
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

    def case(self, number: int, seed: int) -> Case:
        """Damage a copy of a sound file."""
        random = np.random.default_rng([seed, number])
        layout, suffix = LAYOUTS[random.integers(len(LAYOUTS))]
        path = self.folder / f"damaged{suffix}"
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        source = self._source(layout, suffix)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
        kinds = [*damage.STRUCTURE, *damage.BYTES, *(["links"] if suffix == ".h5ad" else ["metadata", "file missing"])]
        kind = kinds[random.integers(len(kinds))]
        may_change = damage.STRUCTURE[kind][1] if kind in damage.STRUCTURE else kind != "links"
        try:
            self._damage(path, kind, random)
        except (OSError, ValueError, KeyError, TypeError, NotImplementedError, AttributeError, OverflowError):
            # Not every damage fits every file; then bytes are flipped.
            kind = "bytes flipped"
            self._damage(path, kind, random)
        return Case(number, kind, suffix, may_change, path)

    def _damage(self, path: Path, kind: str, random: np.random.Generator) -> None:
        if path.is_file() and (kind in damage.STRUCTURE or kind == "links"):
            with h5py.File(path, "r+") as file:
                (damage.links if kind == "links" else damage.STRUCTURE[kind][0])(file, random)
            return
        if kind in damage.STRUCTURE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                damage.STRUCTURE[kind][0](_Walking(zarr.open_group(path, mode="r+", use_consolidated=False)), random)
            return
        files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
        if kind == "metadata":
            files = [
                part for part in files if part.name in (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
            ]
            damage.metadata(files[random.integers(len(files))], random)
        elif kind == "file missing":
            files[random.integers(len(files))].unlink()
        else:
            damage.BYTES[kind](files[random.integers(len(files))], random)

    def run(self, case: Case) -> str:
        """Return what became of a damaged file."""
        answers = {name: worker.answer(case.path) for name, worker in self.workers.items()}
        for answer in answers.values():
            if answer.outcome not in GOOD:
                return f"{answer.outcome}: {answer.said}"
            if answer.outcome == "labelled":
                wrong = sum(
                    self.expected.get(n, label) != label for n, label in zip(answer.names, answer.labels, strict=True)
                )
                if len(answer.names) != len(self.expected) or (wrong and not case.may_change):
                    return f"wrong name: {wrong} labels differ, {len(answer.names)} cells"
        if len({answer.outcome for answer in answers.values()}) > 1:
            return f"engines disagree: {[(name, a.outcome, a.said[:200]) for name, a in answers.items()]}"
        return next(iter(answers.values())).outcome


class Worker:
    """What answers in a process of its own, which may crash or hang and is then started afresh."""

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

    def answer(self, path: Path) -> Answer:
        """Label a file and write the labels, as ``spikgpt annotate`` does."""
        self._pipe.send(path)
        try:
            if self._pipe.poll(self._patience):
                return Answer(*self._pipe.recv())
            failed = Answer("hang", f"more than {self._patience:g} s")
        except EOFError:
            self._process.join()
            failed = Answer("crash", f"exit {self._process.exitcode}")
        self._process.kill()
        self._start()
        return failed


def work(name: str, pipe: Connection) -> None:
    """Answer for the files that come through a pipe, in a process of its own."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    reference = open_reference("pancreas")
    engine = open_engine(reference, EngineOptions(engine=cast(EngineName, name), threads=1))
    pipe.send("ready")
    while True:
        path = pipe.recv()
        try:
            answer = annotated(reference, engine, path)
        except Exception:  # noqa: BLE001, that is what is looked for
            answer = Answer("traceback", traceback.format_exc()[-1500:])
        pipe.send(tuple(answer))


def annotated(reference: Reference, engine: Engine, path: Path) -> Answer:
    """Label a file and write the labels beside it."""
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
        return Answer("several lines" if "\n" in str(error).strip() else "refused", str(error))
    try:
        written = _anndata_reads(out)
    except Exception as error:  # noqa: BLE001, whatever anndata says of it
        with suppress(Exception):
            # Consolidated metadata of a source may name files that are gone.
            _anndata_reads(path if path.is_file() else zarr.open_group(path, mode="r", use_consolidated=False))
            return Answer("unreadable output", repr(error))
        # What anndata cannot read in the source was copied as it is.
        with open_cells(out) as written:
            pass
    names, labels = tuple(written.obs_names), tuple(written.obs["spikgpt_label"].astype(str))
    if tuple(annotation.obs_names) != names or tuple(annotation.labels) != labels:
        return Answer("wrong name", "the output has other names than the annotation")
    return Answer("labelled", labels=labels, names=names)


def _anndata_reads(path: Path | zarr.Group) -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        h5ad = isinstance(path, Path) and path.suffix == ".h5ad"
        return (anndata.read_h5ad if h5ad else anndata.read_zarr)(path)


class _Walking:
    """A zarr group with what the damages use of an h5py group."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def __getitem__(self, name: str) -> Any:
        found = self._group[name]
        return found if hasattr(found, "shape") else _Walking(found)

    def __delitem__(self, name: str) -> None:
        del self._group[name]

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def __iter__(self) -> Any:
        return iter(sorted(self._group.keys()))

    def get(self, name: str) -> Any:
        return self[name] if name in self else None

    def visititems(self, visit: Any) -> None:
        # In whatever order zarr has them, a seed would not always draw the same damage.
        for name, item in sorted(self._group.members(max_depth=None), key=lambda member: str(member[0])):
            visit(name, item)

    def create_dataset(self, name: str, data: Any, dtype: Any = None) -> Any:
        values = np.asarray(data).astype(str) if dtype is not None else np.asarray(data)
        return self._group.create_array(name, data=values)

    def move(self, one: str, other: str) -> None:
        folder = Path(self._group.store.root) / self._group.path
        (folder / one).rename(folder / other)


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[Counted, list[str]]:
    """Return how often each damage came to each outcome, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder))

        def attempt(number: int) -> tuple[str, str, str]:
            case = fuzzer.case(number, seed)
            return f"{case.kind} ({case.suffix})", fuzzer.run(case), f"{case.kind}, {case.suffix}"

        found = tally(count, GOOD, attempt, progress=progress)
        fuzzer.close()
    return found


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 500))

"""Valid files as scanpy's users have them, changed at random: ``python -m tests.fuzz.valid --count 200 --seed 0``.

A file that anndata writes and reads has to get the labels of the plain file, and the output has to hold all that the
file held. Refusals, tracebacks and hangs are failures.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.reading import read_cells
from spikgpt.cells.storage import open_store
from tests.fuzz.cells import CELLS, Worker
from tests.fuzz.outcomes import Counted, run, tally

GOOD = ("labelled",)
N_CELLS, N_GENES = 120, 1200
Random = np.random.Generator


def _value(random: Random, depth: int = 0) -> Any:
    """Return something that uns may hold."""
    values: list[Any] = [
        *(None, True, 3, 2.5, "text", "", "ünï", np.float32(1), np.nan),
        np.array(["#1f77b4", "#ff7f0e"], dtype=object),
        *(np.array([], dtype=object), np.arange(3), np.zeros((2, 0)), np.array([np.nan]), np.array([True, False])),
        np.array([("CD3E", 1.5), ("INS", 2.0)], dtype=[("0", "O"), ("1", "f4")]),
        np.array([("a", 0.0), ("b", 1.0)], dtype=[("0", "O"), ("1", "f4")]).view(np.recarray),
        pd.DataFrame({"a": pd.Categorical(["x", None]), "b": [1.0, np.nan]}, index=["r", "s"]),
        sparse.csr_matrix(np.eye(3)),
        pd.Categorical(["a", "b", None]),
        pd.array([1, None, 2], dtype="Int64"),
        pd.array([True, None], dtype="boolean"),
        {},
    ]
    if depth < 3 and random.random() < 0.4:
        return {f"key {n}": _value(random, depth + 1) for n in range(int(random.integers(1, 4)))}
    return values[int(random.integers(len(values)))]


def uns(cells: AnnData, random: Random) -> None:
    """Add what scanpy's tools and plots, or users, leave in uns."""
    names = ("log1p", "pca", "neighbors", "leiden_colors", "rank_genes_groups", "umap", "cell_type_colors", "other")
    for name in random.choice(names, int(random.integers(1, 5)), replace=False):
        value = _value(random)
        # anndata itself reads and copies no other kind of "neighbors" than a mapping.
        cells.uns[str(name)] = {"params": value} if name == "neighbors" else value


def obs(cells: AnnData, random: Random) -> None:
    """Add columns of the types that pandas has."""
    numbers = random.integers(0, 3, N_CELLS)
    stated = pd.Series(numbers).where(numbers > 0)
    columns: list[Any] = [
        stated.map({1.0: "a", 2.0: "ß"}).astype("category").array,
        pd.Categorical(numbers, ordered=True),
        pd.Categorical([None] * N_CELLS, categories=["unused"]),
        stated.astype("Int64").array,
        (stated.astype("Int64") > 1).array,
        stated.map({1.0: "a", 2.0: "ß"}).astype("string").array,
        np.where(numbers > 0, numbers, np.nan),
        np.full(N_CELLS, np.inf, dtype=np.float32),
        numbers.astype(">i4"),
    ]
    frame = cells.obs if random.random() < 0.7 else cells.var
    column = columns[int(random.integers(len(columns)))]
    frame["added column"] = column if frame is cells.obs else np.arange(N_GENES)


def aligned(cells: AnnData, random: Random) -> None:
    """Add what is aligned to cells or genes."""
    kind = int(random.integers(6))
    if kind == 0:
        cells.obsm["X_umap"] = random.random((N_CELLS, 2), dtype=np.float32)
    elif kind == 1:
        cells.obsm["frame"] = pd.DataFrame({"a": random.random(N_CELLS)}, index=cells.obs_names)
    elif kind == 2:
        cells.obsm["sparse"] = sparse.csr_matrix(np.eye(N_CELLS)[:, :7])
    elif kind == 3:
        cells.obsp["connectivities"] = sparse.csr_matrix(np.eye(N_CELLS))
    elif kind == 4:
        cells.varm["PCs"] = np.full((N_GENES, 2), np.nan)
    else:
        cells.obsm["empty"] = np.zeros((N_CELLS, 0))


def names(cells: AnnData, random: Random) -> None:
    """Name the index, or let it hold nullable strings."""
    if random.random() < 0.5:
        cells.obs.index.name = ("barcode", "index", "CellID")[int(random.integers(3))]
    else:
        cells.obs.index = cells.obs.index.astype("string")


def matrices(cells: AnnData, random: Random) -> None:
    """Store the values in another way."""
    kind = int(random.integers(4))
    if kind == 0:
        cells.X = cells.X.toarray()
    elif kind == 1:
        cells.X = cells.X.tocsc()
    elif kind == 2:
        cells.layers["doubled"] = cells.X * 2
    else:
        cells.raw = cells.copy()


KINDS: dict[str, Callable[[AnnData, Random], None]] = {
    function.__name__: function for function in (names, uns, obs, aligned, matrices)
}


class Fuzzer:
    """A sound set of cells, an engine, and a folder for changed copies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.worker = folder, Worker("onnx")
        cells = read_cells(CELLS)[:N_CELLS].copy()
        counts = np.asarray(cells.X.sum(axis=0), dtype=np.float64).ravel()
        chosen = np.sort(np.argsort(-counts, kind="stable")[:N_GENES])
        self.cells = AnnData(cells.X[:, chosen].astype(np.float32), cells.obs.copy(), cells.var.iloc[chosen].copy())
        sound = self.worker.answer(self._written(self.cells, ".h5ad"))
        assert sound.outcome == "labelled", sound
        self.labels = sound.labels

    def _written(self, cells: AnnData, suffix: str) -> Path:
        path = self.folder / f"cells{suffix}"
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
            warnings.simplefilter("ignore")
            (cells.write_h5ad if suffix == ".h5ad" else cells.write_zarr)(path)
        return path

    def attempt(self, number: int, seed: int) -> tuple[str, str, str]:
        """Return the kind of a change, what became of the file, and the case in words."""
        random = np.random.default_rng([seed, number])
        cells, suffix = self.cells.copy(), (".h5ad", ".zarr")[int(random.integers(2))]
        kinds = [str(kind) for kind in random.choice(list(KINDS), int(random.integers(1, 4)), replace=False)]
        # Tables in obsm have the names that the cells have then.
        for kind in sorted(kinds, key=list(KINDS).index):
            KINDS[kind](cells, random)
        answer = self.worker.answer(self._written(cells, suffix))
        found = f"{answer.outcome}: {answer.said}" if answer.outcome not in GOOD else answer.outcome
        if answer.outcome in GOOD and answer.labels != self.labels:
            found = "wrong labels: they differ from those of the plain file"
        if answer.outcome in GOOD and (lost := self._lost(suffix)):
            found = f"lost: {lost}"
        return f"{kinds[0]} ({suffix})", found, f"{', '.join(kinds)}, {suffix}"

    def _lost(self, suffix: str) -> list[str]:
        """Return which elements of the cells the output lacks, whether or not anndata reads them."""
        places = ("obs", "var", "uns", "obsm", "varm", "obsp", "layers", "raw")
        with open_store(self.folder / f"cells{suffix}") as cells, open_store(self.folder / f"out{suffix}") as out:
            return [
                f"{place}/{key}"
                for place in places
                if place in cells
                for key in cells[place]
                if place not in out or key not in out[place]
            ]


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[Counted, list[str]]:
    """Return how often each change came to each outcome, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder))
        found = tally(count, GOOD, lambda number: fuzzer.attempt(number, seed), progress=progress)
        fuzzer.worker.close()
    return found


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 200))

"""Annotate valid files with random additions that scanpy users make: ``python -m tests.fuzz.valid --count 200``.

A file that anndata writes and reads must get the labels of the plain file. The output must hold every element of the
file. Refusals, tracebacks and hangs are failures.
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
from tests.fuzz.cells import CELLS, FuzzWorker
from tests.fuzz.outcome_table import OutcomeCounts, count_outcomes, run

GOOD = ("labelled",)
N_CELLS, N_GENES = 120, 1200
Random = np.random.Generator


def _value(random: Random, depth: int = 0) -> Any:
    """Return a random value of a type that uns can hold."""
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
    """Add random values to uns under keys that scanpy or users set."""
    names = ("log1p", "pca", "neighbors", "leiden_colors", "rank_genes_groups", "umap", "cell_type_colors", "other")
    for name in random.choice(names, int(random.integers(1, 5)), replace=False):
        value = _value(random)
        # anndata can read and copy "neighbors" only if the value is a mapping.
        cells.uns[str(name)] = {"params": value} if name == "neighbors" else value


def obs(cells: AnnData, random: Random) -> None:
    """Add a column of a random pandas type to obs or var."""
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
    """Add an element to obsm, obsp or varm."""
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
    """Name the index of obs, or convert it to nullable strings."""
    if random.random() < 0.5:
        cells.obs.index.name = ("barcode", "index", "CellID")[int(random.integers(3))]
    else:
        cells.obs.index = cells.obs.index.astype("string")


def matrices(cells: AnnData, random: Random) -> None:
    """Store X in another layout, or add a layer or raw."""
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


class ValidFileFuzzer:
    """Unchanged cells with their labels, an engine, and a folder for changed copies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.worker = folder, FuzzWorker("onnx")
        cells = read_cells(CELLS)[:N_CELLS].copy()
        counts = np.asarray(cells.X.sum(axis=0), dtype=np.float64).ravel()
        chosen = np.sort(np.argsort(-counts, kind="stable")[:N_GENES])
        self.cells = AnnData(cells.X[:, chosen].astype(np.float32), cells.obs.copy(), cells.var.iloc[chosen].copy())
        unchanged = self.worker.process(self._written(self.cells, ".h5ad"))
        assert unchanged.outcome == "labelled", unchanged
        self.labels = unchanged.labels

    def _written(self, cells: AnnData, suffix: str) -> Path:
        path = self.folder / f"cells{suffix}"
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
            warnings.simplefilter("ignore")
            (cells.write_h5ad if suffix == ".h5ad" else cells.write_zarr)(path)
        return path

    def attempt(self, number: int, seed: int) -> tuple[str, str, str]:
        """Return the kind of the first change, the outcome, and a description of the case."""
        random = np.random.default_rng([seed, number])
        cells, suffix = self.cells.copy(), (".h5ad", ".zarr")[int(random.integers(2))]
        kinds = [str(kind) for kind in random.choice(list(KINDS), int(random.integers(1, 4)), replace=False)]
        # Apply the changes in the order of KINDS, so that cell names change before tables in obsm copy the names.
        for kind in sorted(kinds, key=list(KINDS).index):
            KINDS[kind](cells, random)
        result = self.worker.process(self._written(cells, suffix))
        outcome = f"{result.outcome}: {result.message}" if result.outcome not in GOOD else result.outcome
        if result.outcome in GOOD and result.labels != self.labels:
            outcome = "wrong labels: the labels differ from those of the plain file"
        if result.outcome in GOOD and (lost := self._lost(suffix)):
            outcome = f"lost: {lost}"
        return f"{kinds[0]} ({suffix})", outcome, f"{', '.join(kinds)}, {suffix}"

    def _lost(self, suffix: str) -> list[str]:
        """Return the elements of the file that the output lacks."""
        groups = ("obs", "var", "uns", "obsm", "varm", "obsp", "layers", "raw")
        with open_store(self.folder / f"cells{suffix}") as cells, open_store(self.folder / f"out{suffix}") as out:
            return [
                f"{group}/{key}"
                for group in groups
                if group in cells
                for key in cells[group]
                if group not in out or key not in out[group]
            ]


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[OutcomeCounts, list[str]]:
    """Return the number of each outcome by kind of change, and the failures."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = ValidFileFuzzer(Path(folder))
        outcomes = count_outcomes(count, GOOD, lambda number: fuzzer.attempt(number, seed), progress=progress)
        fuzzer.worker.close()
    return outcomes


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 200))

"""Measure time and memory of reading and annotating cells, for each layout of h5ad, zarr and 10x files."""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.align import aligned_chunks
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import match_genes
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt_benchmark.process import peak_megabytes
from spikgpt_benchmark.studies.speed import BLOCK, CELLS, in_new_process
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

# Range of the total count of a resampled cell, as a share of the real cell's total.
LEAST_DEPTH, MOST_DEPTH = 0.6, 1.4
# Largest number of values in a chunk, as in files of Cell Ranger.
TENX_CHUNK = 80_000
# By number of dimensions: shape of a chunk in a zarr array, and most chunks along each side of a shard.
CHUNK_SHAPES, CHUNKS_OF_SHARD = {1: (1 << 16,), 2: (256, 2048)}, {1: (64,), 2: (16, 10)}
# Largest number of cells in a dense file; each cell takes 80 KB.
MOST_DENSE = 50_000


def distinct_cells(n_cells: int, seed: int = 0) -> AnnData:
    """Return demo cells drawn with replacement, with Poisson noise and random depths, so that all cells differ."""
    demo = read_cells(CELLS)
    counts, blocks, rows = sparse.csr_matrix(demo.X), [], []
    for start in range(0, n_cells, BLOCK):
        random = np.random.default_rng([seed, start])
        rows.append(random.integers(counts.shape[0], size=min(BLOCK, n_cells - start)))
        block = counts[rows[-1]].copy()
        depths = random.uniform(LEAST_DEPTH, MOST_DEPTH, block.shape[0])
        block.data = random.poisson(block.data * np.repeat(depths, np.diff(block.indptr))).astype(np.float32)
        block.eliminate_zeros()
        blocks.append(block)
    types = demo.obs["cell_type"].to_numpy()[np.concatenate(rows)]
    obs = pd.DataFrame({"cell_type": types}, index=[f"cell {number}" for number in range(n_cells)])
    return AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=demo.var[[]])


def _h5ad(form: str, **keywords: Any) -> Callable[[AnnData, Path], None]:
    def write(cells: AnnData, path: Path) -> None:
        AnnData(_in_form(cells.X, form), obs=cells.obs, var=cells.var).write_h5ad(path, **keywords)

    return write


def _zarr(form: str, version: int, *, sharded: bool = False) -> Callable[[AnnData, Path], None]:
    def write(cells: AnnData, path: Path) -> None:
        with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
            warnings.simplefilter("ignore")
            AnnData(_in_form(cells.X, form), obs=cells.obs, var=cells.var).write_zarr(path)
        if not sharded:
            return
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        arrays: list[tuple[Any, str]] = (
            [(root, "X")] if form == "dense" else [(root["X"], "data"), (root["X"], "indices")]
        )
        for group, name in arrays:
            values, attributes = group[name][:], dict(group[name].attrs)
            chunks = CHUNK_SHAPES[values.ndim]
            limits = zip(values.shape, chunks, CHUNKS_OF_SHARD[values.ndim], strict=True)
            shards = tuple(min(-(-size // chunk), most) * chunk for size, chunk, most in limits)
            sizes = {"shape": values.shape, "chunks": chunks, "shards": shards}
            stored = group.create_array(name, dtype=values.dtype, overwrite=True, **sizes)
            stored[:] = values
            stored.attrs.update(attributes)

    return write


def _tenx(cells: AnnData, path: Path) -> None:
    """Write cells as an HDF5 file in the format of Cell Ranger."""

    def texts(values: Any) -> npt.NDArray[np.bytes_]:
        return np.array(list(values), dtype="S")

    with h5py.File(path, "w") as file:
        group, types = file.create_group("matrix"), {"data": np.int32, "indices": np.int64, "indptr": np.int64}
        for part, dtype in types.items():
            values = getattr(cells.X, part).astype(dtype)
            chunks = (min(TENX_CHUNK, len(values)),)
            group.create_dataset(part, data=values, chunks=chunks, compression="gzip", compression_opts=4)
        group["shape"], group["barcodes"] = cells.shape[::-1], texts(cells.obs_names)
        for name in ("id", "name"):
            group[f"features/{name}"] = texts(cells.var_names)
        group["features/feature_type"] = texts(["Gene Expression"] * cells.n_vars)
        group["features/genome"] = texts(["GRCh38"] * cells.n_vars)


def _in_form(matrix: Any, form: str) -> Any:
    return {"csr": matrix.tocsr, "csc": matrix.tocsc, "dense": matrix.toarray}[form]()


# Function that writes cells in each layout, by the ending of the file and a name.
LAYOUTS: dict[tuple[str, str], Callable[[AnnData, Path], None]] = {
    (".h5ad", "CSR"): _h5ad("csr"),
    (".h5ad", "CSR, gzip"): _h5ad("csr", compression="gzip"),
    (".h5ad", "CSR, lzf"): _h5ad("csr", compression="lzf"),
    (".h5ad", "CSC"): _h5ad("csc"),
    (".h5ad", "CSC, gzip"): _h5ad("csc", compression="gzip"),
    (".h5", "10x"): _tenx,
    (".zarr", "CSR, format 2"): _zarr("csr", 2),
    (".zarr", "CSR, format 3"): _zarr("csr", 3),
    (".zarr", "CSR, format 3, shards"): _zarr("csr", 3, sharded=True),
    (".zarr", "CSC, format 3"): _zarr("csc", 3),
    (".h5ad", "dense"): _h5ad("dense"),
    (".h5ad", "dense, gzip"): _h5ad("dense", compression="gzip"),
    (".zarr", "dense, format 3"): _zarr("dense", 3),
    (".zarr", "dense, format 3, shards"): _zarr("dense", 3, sharded=True),
}


def read_file(path: Path) -> Record:
    """Read and align the cells of a file; return processor time per cell, and memory in MB before and at the peak."""
    genes = SpikGPT.from_pretrained("pancreas").engine.embedding.genes  # type: ignore[attr-defined]
    before, start = peak_megabytes(), time.process_time()
    with open_cells(path) as cells:
        expression = find_expression(cells)
        chosen = time.process_time()
        n_values = sum(chunk.values.nnz for chunk in aligned_chunks(expression, match_genes(expression.var, genes)))
    seconds = {"choose, us/cell": chosen - start, "read and align, us/cell": time.process_time() - chosen}
    per_cell = {name: 1e6 * value / expression.n_cells for name, value in seconds.items()}
    return per_cell | {"MB before": before, "peak MB": peak_megabytes(), "values": n_values}


def annotate_file(path: Path) -> Record:
    """Annotate a file on all cores; return processor time, cells per second, peak memory in MB, and label counts."""
    model = SpikGPT.from_pretrained("pancreas", engine="onnx", provider="cpu")
    processor, start = time.process_time(), time.perf_counter()
    labels = model.annotate(path, progress=False).counts()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    n_cells = sum(labels.values())
    record: Record = {"annotate, us/cell": 1e6 * processor / n_cells, "cells/s": n_cells / seconds}
    return record | {"annotate, peak MB": peak_megabytes(), "labels": labels}


def layout_records(context: StudyContext) -> Iterator[Record]:
    """Yield time and memory of reading and of annotating each layout, each in a separate process.

    Label counts are compared with those of the first layout.
    """
    with tempfile.TemporaryDirectory(dir=context.cache) as folder:
        for n_cells in context.sizes or (50_000, 200_000):
            cells, expected = distinct_cells(n_cells), None
            for (ending, name), write in LAYOUTS.items():
                if not context.selects(name) or ("dense" in name and n_cells > MOST_DENSE):
                    continue
                path = Path(folder) / f"{name.replace(', ', '-')}-{n_cells}{ending}"
                write(cells, path)
                record = {"layout": f"{ending} {name}", "cells": n_cells, **in_new_process(read_file, path)}
                if expected is None:
                    # The first use of compiled code on a machine takes some seconds, which are not counted.
                    in_new_process(annotate_file, path)
                record |= in_new_process(annotate_file, path)
                labels = record.pop("labels")
                expected = expected or labels
                yield record | {"same labels": labels == expected}
                path.unlink() if path.is_file() else shutil.rmtree(path)


SUITES = {"layouts": StudySuite("reading and annotating each layout of a file", layout_records, ("layout", "cells"))}

"""Measure size, time and memory of a report on many cells, and the time to its first picture in Chromium.

    python benchmarks/report_size.py CELLS.h5ad --cells 100000 1000000

The cells are copies of real cells. Each copy keeps a random share of its counts, so that all cells differ. Only the
reference's genes are kept, so that a million cells fit into memory. The values of obs are random. The time of the map
(UMAP of at most 10,000 cells, and interpolated positions of the other cells) is measured separately. The output is one
JSON object for each number of cells. The browser is measured if playwright and Chromium are installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.errors import SpikGPTWarning
from spikgpt.report.dots import dot_plots
from spikgpt.report.map import cell_map
from spikgpt_benchmark.process import peak_megabytes

CHROMIUM = "/usr/bin/chromium"
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def simulated_cells(cells: AnnData, n_cells: int, genes: tuple[str, ...]) -> AnnData:
    """Return copies of random cells, each with a random share of its counts, and with random columns of obs."""
    kept = np.flatnonzero(cells.var_names.isin(genes))
    counts, parts = sparse.csr_matrix(cells.X)[:, kept].tocsr(), []
    for number, rows in enumerate(np.array_split(np.arange(n_cells), max(1, n_cells // 50_000))):
        random = np.random.default_rng(number)
        part = counts[random.integers(0, cells.n_obs, len(rows))]
        shares = np.repeat(random.uniform(0.5, 0.95, len(rows)), np.diff(part.indptr))
        part.data = random.binomial(part.data.astype(np.int64), shares).astype(np.float32)
        part.eliminate_zeros()
        parts.append(part)
    random = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical([f"sample {number}" for number in random.integers(0, 12, n_cells)]),
            "leiden": pd.Categorical(random.integers(0, 20, n_cells).astype(str)),
            "total_counts": random.lognormal(8, 1, n_cells),
            "percent_mt": random.gamma(2, 2, n_cells),
        },
        index=pd.Index(barcodes(n_cells)),
    )
    return AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=cells.var.iloc[kept][[]].copy())


def barcodes(n_cells: int) -> list[str]:
    """Return different barcodes of 16 letters, each with the suffix ``-1``."""
    # The factor is odd, so no number occurs twice.
    numbers = (np.arange(n_cells, dtype=np.uint64) * np.uint64(2_654_435_761)) % np.uint64(4**16)
    digits = (numbers[:, None] >> np.arange(0, 32, 2, dtype=np.uint64)) & np.uint64(3)
    letters = np.frombuffer(b"ACGT", dtype="S1")[digits]
    return [f"{text.decode()}-1" for text in letters.view("S16").ravel().tolist()]


def measure(model: SpikGPT, cells: AnnData, n_cells: int, folder: Path) -> dict[str, Any]:
    """Annotate simulated cells, write a report, and return seconds, size and memory."""
    adata = simulated_cells(cells, n_cells, model.reference.genes.symbols)
    start = time.perf_counter()
    annotation = model.annotate(adata, progress=False)
    labelled = time.perf_counter()
    before = peak_megabytes()
    positions = cell_map(annotation)
    mapped = time.perf_counter()
    dot_plots(annotation)
    explained = time.perf_counter()
    adata.obsm["X_umap"] = positions.points
    path = annotation.report(folder / f"report-{n_cells}.html", adata)
    written = time.perf_counter()
    after = peak_megabytes()
    return {
        "cells": n_cells,
        "annotation in s": round(labelled - start, 1),
        "map in s": round(mapped - labelled, 2),
        "genes behind the labels in s": round(explained - mapped, 2),
        "report without map in s": round(written - explained, 2),
        "size in MB": round(path.stat().st_size / 1e6, 2),
        "memory of annotation, of all in MB": (round(before), round(after)),
    } | browser_times(path)


def browser_times(path: Path) -> dict[str, float]:
    """Return the seconds until Chromium shows a report's first text and its map; empty without Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if not Path(CHROMIUM).exists():
        return {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_GL])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("#canvas[data-drawn]", timeout=120_000)
        drawn_after = time.perf_counter() - start
        first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
        browser.close()
    return {"first text in s": round(first / 1000, 2), "first map in s": round(drawn_after, 2)}


def main() -> None:
    """Measure a report for each number of cells, and print one JSON object each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="pancreas")
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000])
    parser.add_argument("--keep", type=Path, help="folder for the reports")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", SpikGPTWarning)
    model, cells = SpikGPT.from_pretrained(chosen.model), read_cells(chosen.file)
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for n_cells in chosen.cells:
            sys.stdout.write(json.dumps(measure(model, cells, n_cells, folder)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

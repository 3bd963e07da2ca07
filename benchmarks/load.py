"""CPU seconds and memory against the number of labels and of clusters, on made-up cells.

Run: python benchmarks/load.py labels 100 300 1000
     python benchmarks/load.py clusters 1000 4000 12000

Each size runs in a process of its own. One line a step: CPU seconds, and the largest memory so far, in MB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.output import write_csv
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import save
from spikgpt.report.clusters import summarise

GENES, CELLS_A_LABEL, CLUSTER_CELLS = 1500, 12, 10


@contextmanager
def measured(step: str) -> Iterator[None]:
    """Print the CPU seconds of a step and the largest memory so far."""
    start = time.process_time()
    yield
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  {step:24s}{time.process_time() - start:9.1f} s {memory:7d} MB", flush=True)  # noqa: T201


def made_up(labels: int, cells: int, seed: int = 0) -> AnnData:
    """Return counts of cells, each type with 20 genes of its own that it expresses more."""
    random = np.random.default_rng(seed)
    mean = np.random.default_rng(0).gamma(0.3, 1.0, GENES)
    own = np.random.default_rng(1).integers(GENES, size=(labels, 20))
    codes = np.arange(cells) % labels
    rates = np.tile(mean, (cells, 1))
    np.add.at(rates, (np.arange(cells)[:, None], own[codes]), 5.0)
    obs = pd.DataFrame({"type": [f"type {code}" for code in codes]}, index=[f"cell {n}" for n in range(cells)])
    var = pd.DataFrame(index=[f"GENE{n}" for n in range(GENES)])
    return AnnData(sparse.csr_matrix(random.poisson(rates).astype(np.float32)), obs=obs, var=var)


def by_labels(labels: int) -> None:
    """Train, save, annotate and evaluate with many labels."""
    from spikgpt.training.train import train

    adata, query = made_up(labels, labels * CELLS_A_LABEL), made_up(labels, 4000, seed=5)
    with measured("train"):
        reference = train(adata, "type", options=TrainOptions(name="load"))
    with tempfile.TemporaryDirectory() as folder, measured("save, with pictures"):
        save(reference, Path(folder) / "reference")
    model = SpikGPT(reference)
    with measured("annotate 4000 cells"):
        model.annotate(query, progress=False)
    with measured("evaluate 4000 cells"):
        model.evaluate(query, "type", progress=False)


def by_clusters(clusters: int) -> None:
    """Annotate cells of many clusters, and report on the clusters."""
    model = SpikGPT.from_pretrained("pancreas")
    symbols = list(model.reference.genes.symbols)
    few = made_up(20, 1000, seed=5)
    few.var_names = [*symbols, *few.var_names][:GENES]
    annotation = annotate(model.reference, model.engine, few, AnnotateOptions(progress=False))
    # The same cells again and again. A tenth of the clusters is Unknown, and may get marker genes.
    rows = np.arange(clusters * CLUSTER_CELLS) % few.n_obs
    query = AnnData(few.X[rows], obs=pd.DataFrame(index=[f"cell {n}" for n in range(len(rows))]), var=few.var)
    query.obs["cluster"] = (np.arange(len(rows)) // CLUSTER_CELLS).astype(str)
    by_cell = ("best", "broad", "confidence", "probabilities", "familiarity", "empty")
    whole = {name: getattr(annotation, name)[rows] for name in by_cell}
    rejected = np.repeat(np.arange(clusters) % 10 == 0, CLUSTER_CELLS)
    annotation = replace(annotation, obs_names=query.obs_names, rejected=rejected, **whole)
    with measured("report on clusters"):
        report = summarise(annotation, query, "cluster")
    with tempfile.TemporaryDirectory() as folder, measured("table"):
        write_csv([report.table()], Path(folder) / "clusters.csv", index=False)


def main() -> None:
    """Run each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("labels", "clusters"))
    parser.add_argument("sizes", nargs="+", type=int)
    chosen = parser.parse_args()
    if len(chosen.sizes) > 1:
        for size in chosen.sizes:
            subprocess.run([sys.executable, __file__, chosen.what, str(size)], check=True)
        return
    print(f"{chosen.sizes[0]} {chosen.what}", flush=True)  # noqa: T201
    {"labels": by_labels, "clusters": by_clusters}[chosen.what](chosen.sizes[0])


if __name__ == "__main__":
    main()

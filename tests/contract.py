"""Compare the labels of the Node.js example with those of the library on real cells: `make test-contract`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from spikgpt.cells.reading import read_cells
from spikgpt.engines.opening import torch_engine
from spikgpt.options import AnnotateOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.registry import shipped_references
from spikgpt.sharing import open_reference

ROOT = Path(__file__).resolve().parents[1]
CELLS = ROOT / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
EXAMPLE = ROOT / "export" / "examples" / "node" / "annotate.mjs"


def main() -> int:
    """Compare the labels with all genes and with a third of the genes removed; return 1 if any label differs."""
    reference = open_reference("pancreas")
    # The example does not impute genes that the query lacks.
    engine = torch_engine(replace(reference, more_genes=None))
    # Options that match the ONNX graph, which labels each cell alone and without an OOD score.
    options = AnnotateOptions(scaling="reference", smoothing=False, threshold=reference.thresholds.threshold)
    cells = read_cells(CELLS)
    kept_genes = np.random.default_rng(0).random(cells.n_vars) < 2 / 3
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        counts, labels = Path(folder) / "counts.csv", Path(folder) / "labels.csv"
        for query in (cells, cells[:, kept_genes].copy()):
            pd.DataFrame(query.X.toarray(), query.obs_names, query.var_names).to_csv(counts)
            arguments = [shipped_references()["pancreas"], counts, labels]
            subprocess.run(["node", EXAMPLE, *arguments], check=True)
            example = pd.read_csv(labels, index_col="cell")
            expected = annotate(reference, engine, query, options)
            differs = (example["label"].to_numpy() != expected.labels) | (
                example["best_label"].to_numpy() != expected.best_labels
            )
            difference = float(np.abs(example["confidence"].to_numpy() - expected.confidence).max())
            different += int(differs.sum())
            n_same, genes = int((~differs).sum()), expected.input_report.genes_matched
            sys.stdout.write(
                f"{query.n_obs} cells, {genes} genes: {n_same} labels the same; confidence within {difference:.1e}\n"
            )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run every method of the benchmark on a few hundred real cells: `make test-rivals`.

Methods with missing requirements, such as R, are listed and skipped. `python -m tests.rivals NAME` runs only NAME.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from spikgpt.cells.reading import read_cells
from spikgpt_benchmark.methods import METHODS
from spikgpt_benchmark.run import DONE, BenchmarkPlan, run_methods
from spikgpt_benchmark.task import BenchmarkTask

DATA = Path(__file__).parent / "data"
MARKERS = Path(__file__).parent.parent / "benchmarks" / "markers" / "pancreas.txt"
OPTIONS = {"scgpt": str(DATA / "scgpt_baron"), "markers": str(MARKERS)}
# Number of cells in the reference, and in the query.
CELLS = 300


def main() -> int:
    """Run the methods; return 1 if a method fails or is not more accurate than chance."""
    cells = read_cells(DATA / "pancreas_baron_human1.h5ad")
    rows = np.random.default_rng(0).permutation(cells.n_obs)
    reference, query = (cells[np.sort(part)].copy() for part in (rows[:CELLS], rows[CELLS : 2 * CELLS]))
    task = BenchmarkTask.from_cells("islets", reference, query, "cell_type").with_known_types()
    # Accuracy of always predicting the most frequent type.
    chance = task.reference.obs["label"].value_counts(normalize=True).max()
    methods = [method for method in METHODS if method.name in (sys.argv[1:] or [method.name])]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for run in run_methods(
            [task], methods, BenchmarkPlan(Path(folder), threads=1, options=OPTIONS), lambda *_: None
        ):
            if run.result is None:
                missing = run.note.startswith(("not installed", "not run")) or "R has no package" in run.note
                failures += not missing
                sys.stdout.write(f"{run.method}: {run.note}\n")
                continue
            assert run.note == DONE
            accuracy = float((run.result.labels == task.truth).mean())
            failures += accuracy <= chance
            rejected = "" if run.result.assigned is None else f", {1 - run.result.assigned.mean():.2f} rejected"
            sys.stdout.write(f"{run.method}: accuracy {accuracy:.3f}{rejected}, {run.seconds:.0f} s\n")
            sys.stdout.flush()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

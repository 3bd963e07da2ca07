"""Measure the installed size of each engine, and the seconds to label the demo cells in a new process.

    python benchmarks/footprint.py

The installed size is that of a package and of all its requirements in this environment. An engine that is not
installed is left out. Each run is a new process, from the file of cells to the labelled file. The fastest of three runs
counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
BIN = Path(sys.executable).parent
# The package that runs each engine, and the extra of SpikGPT that installs the package.
ENGINES = {"onnx": ("onnxruntime", "cpu"), "torch": ("torch", "train")}


def required(name: str, extra: str = "") -> set[str]:
    """Return the name of a distribution and the names of all its direct and indirect requirements."""
    names: set[str] = set()
    queue = [(name, {"", extra})]
    while queue:
        current, extras = queue.pop()
        try:
            stated = distribution(current).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, stated):
            marker = requirement.marker
            wanted = marker is None or any(marker.evaluate({"extra": chosen}) for chosen in extras)
            if wanted and requirement.name.lower() not in names:
                queue.append((requirement.name, {"", *requirement.extras}))
                names.add(requirement.name.lower())
    return names | {name}


def megabytes(names: set[str]) -> float:
    """Return the total size of the installed files of some distributions, in MB."""
    total = 0
    for name in names:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        total += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    return total / 1e6


def seconds(command: list[str | Path], *, forget: bool = False) -> float:
    """Return the seconds of the fastest of three runs; with ``forget``, each run has an empty cache folder."""
    taken = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as empty:
            more = {"SPIKGPT_CACHE": empty} if forget else {}
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=os.environ | more)
            taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Measure all engines, and print a table."""
    table = Table("package", "packages", "installed, MB", "engine", "demo cells, s")
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        annotate: list[str | Path] = [BIN / "spikgpt", "annotate", CELLS, "--model", "pancreas"]
        for engine, (package, extra) in ENGINES.items():
            if find_spec(package) is None:
                continue
            names = required("spikgpt", extra)
            taken = seconds([*annotate, "--engine", engine, "--out", Path(folder) / f"{engine}.h5ad"])
            size = f"{megabytes(names):,.0f}"
            table.add_row(rf"spikgpt\[{extra}]", str(len(names)), size, engine, f"{taken:.1f}")
            if engine == "onnx":  # with an empty cache, the graph is also rebuilt and compared
                first = seconds([*annotate, "--engine", engine, "--out", Path(folder) / "first.h5ad"], forget=True)
                table.add_row("", "", "", "onnx, for the first time", f"{first:.1f}")
    console.print(table)
    console.print(f"spikgpt --version takes {seconds([BIN / 'spikgpt', '--version']):.2f} s.")


if __name__ == "__main__":
    main()

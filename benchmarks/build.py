"""Time and memory of building a reference on the cells of a lung atlas, made up: 5% of 20,000 genes.

python benchmarks/build.py --cells 10000 30000 100000 310000
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub_cards"))

GENES = 20_000
# Of ten cells of the mirror, eight are of the studies to train on.
OF_REFERENCE = 0.8


def build(mirror: Path, out: Path, results: Any) -> None:
    """Build, and tell how long each step took and the most memory that the process had by its end."""
    from spikgpt.building.plan import plan_of
    from spikgpt.building.recipe import find_recipe, read_recipe
    from spikgpt.building.steps import Build, Done

    folder = find_recipe("lung")
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], resident())

    threading.Thread(target=watch, daemon=True).start()

    used = time.process_time()

    def on_step(done: Done) -> None:
        nonlocal used
        used, before = time.process_time(), used
        results.put((done.step, done.seconds, used - before, peak[0]))
        peak[0] = 0.0

    Build(plan_of(read_recipe(folder), synthetic=True), folder, out, out.parent / "cache", str(mirror)).run(
        on_step=on_step
    )
    stop.set()
    results.put(("all", 0.0, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


def resident() -> float:
    """Return the memory of this process that is not that of files, in GB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e6
    return 0.0


def main() -> None:
    """Make the cells, build, and print."""
    from mirror import lung

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 30_000, 100_000, 310_000])
    parser.add_argument("--genes", type=int, default=GENES)
    options = parser.parse_args()
    for cells in options.cells:
        folder = Path(tempfile.mkdtemp(prefix="spikgpt-bench-"))
        try:
            started = time.perf_counter()
            lung(folder / "mirror", round(cells / OF_REFERENCE), options.genes)
            made = time.perf_counter() - started
            context = multiprocessing.get_context("spawn")
            results = context.Queue()
            process = context.Process(target=build, args=(folder / "mirror", folder / "lung", results))
            started = time.perf_counter()
            process.start()
            sys.stdout.write(f"{cells:,} cells to train on, made in {made:.0f} s\n")
            while True:
                try:
                    step, seconds, used, memory = results.get(timeout=5)
                except queue.Empty:
                    if process.is_alive():
                        continue
                    sys.exit("the build failed")
                if step == "all":
                    break
                sys.stdout.write(f"  {step}: {seconds:.1f} s, {used:.1f} of the processor, {memory:.2f} GB at most\n")
                sys.stdout.flush()
            process.join()
            total = time.perf_counter() - started
            sys.stdout.write(f"  all: {total:.0f} s, {used:.0f} of the processor, {memory:.2f} GB with files\n")
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Run many processes on one cache at the same time: ``python -m tests.fuzz.together --count 20 --seed 0``.

In each round all processes pull into one empty cache. In every second round one process damages the cache meanwhile.
At the end, the same number of commands annotate with a reference of the Hub. Each pull must end with the right bytes,
and the cache must be complete.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from spikgpt.errors import SpikGPTError
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_cache import hashed
from spikgpt.sharing import pull
from tests.fuzz.alter_answers import REPO, files_of, reference_files
from tests.hub_server import LoopbackHub

PROCESSES = 16
# Seconds that a pull, and a command, may take at most.
PATIENCE, LONGEST = 60.0, 600.0


def work(number: int, pipe: Connection) -> None:
    """Pull a reference once per request; if the request has a random seed, damage the shared cache first."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("ready")
    while request := pipe.recv():
        endpoint, folder, seed = request
        if seed is not None:
            damage(folder / "cache", np.random.default_rng(seed))
        try:
            pulled = pull(REPO, folder / f"out-{number}", hub=Hub(endpoint, cache_dir=folder / "cache"))
            pipe.send(("", pulled.digest))
        except SpikGPTError as error:
            pipe.send((str(error), ""))


def damage(cache: Path, random: np.random.Generator) -> None:
    """Change files of a cache in place, as a failing disk does, while other processes use the cache."""
    for _ in range(20):
        blobs = sorted(path for path in cache.rglob("blobs/*") if path.suffix != ".incomplete")
        if blobs:
            # Another process may have detected the damage and deleted the file.
            with suppress(FileNotFoundError), blobs[int(random.integers(len(blobs)))].open("r+b") as file:
                file.write(b"cosmic ray")
        time.sleep(float(random.random()) / 100)


def rounds(count: int, seed: int, processes: int = PROCESSES) -> list[str]:
    """Let all processes pull in ``count`` rounds, each with an empty cache; return the failures."""
    context, failures = multiprocessing.get_context("forkserver"), list[str]()
    # The forkserver imports the modules once for all processes.
    context.set_forkserver_preload(["tests.fuzz.together"])
    pipes = [context.Pipe() for _ in range(processes)]
    workers = [
        context.Process(target=work, args=(n, child_pipe), daemon=True) for n, (_, child_pipe) in enumerate(pipes)
    ]
    for process in workers:
        process.start()
    assert [pipe.recv() for pipe, _ in pipes] == ["ready"] * processes
    for round_number in range(count):
        with LoopbackHub() as hub, tempfile.TemporaryDirectory() as name:
            hub.put(REPO, reference_files())
            damaged = round_number % 2 == 1
            for number, (pipe, _) in enumerate(pipes):
                damage_seed = seed + round_number if damaged and number == processes - 1 else None
                pipe.send((hub.endpoint, Path(name), damage_seed))
            digests = set()
            for number, (pipe, _) in enumerate(pipes):
                problem, digest = pipe.recv() if pipe.poll(PATIENCE) else ("timed out", "")
                digests.add(digest)
                if problem or files_of(Path(name, f"out-{number}")) != reference_files():
                    failures.append(f"round {round_number}, process {number}: {problem or 'other bytes'}")
            if len(digests) > 1:
                failures.append(f"round {round_number}: the digests differ: {digests}")
            failures += [
                f"round {round_number}: {problem}" for problem in problems_of(Path(name, "cache"), damaged=damaged)
            ]
    for process, (pipe, _) in zip(workers, pipes, strict=True):
        pipe.send(None)
        process.join(PATIENCE)
        process.kill()
    return failures


def problems_of(cache: Path, *, damaged: bool) -> list[str]:
    """Return the problems of a cache after all pulls of one commit; with ``damaged``, damaged blobs are no problem."""
    # The client keeps empty lock files.
    files = [path for path in cache.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".lock"]
    blobs = [path for path in files if path.parent.name == "blobs"]
    problems = [f"{path.relative_to(cache)} is left over" for path in files if path.suffix == ".incomplete"]
    if not damaged:
        whole = {path for path in blobs if hashed(path.read_bytes(), large=len(path.name) == 64) == path.name}
        problems += [f"{path.relative_to(cache)} is damaged" for path in sorted(set(blobs) - whole)]
    if len(list(cache.rglob("snapshots/*/*"))) != len(reference_files()):
        problems.append("the commit in the cache has missing or extra files")
    return problems


def annotate_concurrently(processes: int = PROCESSES) -> list[str]:
    """Return the failures of commands that annotate at the same time with a reference of the Hub."""
    # Imported here, because anndata takes seconds to import and the processes of rounds do not need it.
    import anndata

    from tests.fuzz.kills import CELLS, spikgpt

    failures = []
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as name:
        hub.put(REPO, reference_files())
        folder = Path(name)
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "SPIKGPT_CACHE": str(folder / "cache")}
        outs = [(folder / f"{number}.h5ad", folder / f"{number}.csv") for number in range(processes)]
        commands = [spikgpt("annotate", CELLS, "--model", REPO, "--out", out, "--table", table) for out, table in outs]
        environment = os.environ | own | {"HF_TOKEN": "x"}
        running = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for command in commands]
        for number, process in enumerate(running):
            _, error = process.communicate(timeout=LONGEST)
            if process.returncode:
                failures.append(f"command {number}: exit code {process.returncode}: {error}")
        if not failures:
            failures += [f"command {n}: another table" for n, (_, csv) in enumerate(outs) if not same(csv, outs[0][1])]
            columns = [anndata.read_h5ad(out, backed="r").obs["spikgpt_label"] for out, _ in outs]
            failures += [f"command {n}: other labels" for n, own in enumerate(columns) if not own.equals(columns[0])]
        unexpected = {path.name for path in folder.iterdir()} - {path.name for pair in outs for path in pair}
        failures += [f"{path} is left over" for path in sorted(unexpected - {"home", "cache"})]
        failures += problems_of(folder / "home" / "hub", damaged=False)
    return failures


def same(first: Path, second: Path) -> bool:
    """Return True if two files hold the same bytes."""
    return first.read_bytes() == second.read_bytes()


def main() -> int:
    """Pull and annotate at the same time, and print the failures; return 1 if there are failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = {
        f"pull at once, {options.count} times": rounds(options.count, options.seed),
        "annotate at once": annotate_concurrently(),
    }
    for title, failures in results.items():
        sys.stdout.write("\n".join([f"{PROCESSES} {title}: {len(failures)} failures", *failures]) + "\n")
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

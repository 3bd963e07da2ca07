"""Many processes on one cache at once: ``python -m tests.fuzz.together --count 20 --seed 0``.

They pull into a fresh cache, in every second round while one of them damages it; in the end as many commands annotate
by a reference of the Hub. Each has to end with the right bytes, every time, and the cache has to be whole.
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
from tests.fuzz.answers import REPO, files_of, sound
from tests.hub_server import LoopbackHub

PROCESSES = 16
# Seconds that a pull, and a command, may take.
PATIENCE, LONGEST = 60.0, 600.0


def work(number: int, pipe: Connection) -> None:
    """Pull whenever a round begins; with a seed, spoil what there is first, while the others pull."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("ready")
    while asked := pipe.recv():
        endpoint, folder, seed = asked
        if seed is not None:
            spoil(folder / "cache", np.random.default_rng(seed))
        try:
            pulled = pull(REPO, folder / f"out-{number}", hub=Hub(endpoint, cache_dir=folder / "cache"))
            pipe.send(("", pulled.digest))
        except SpikGPTError as error:
            pipe.send((str(error), ""))


def spoil(cache: Path, random: np.random.Generator) -> None:
    """Change files of a cache in place, as a disk does, while others read and write it."""
    for _ in range(20):
        blobs = sorted(path for path in cache.rglob("blobs/*") if path.suffix != ".incomplete")
        if blobs:
            # A process that found the damage may have deleted the file.
            with suppress(FileNotFoundError), blobs[int(random.integers(len(blobs)))].open("r+b") as file:
                file.write(b"cosmic ray")
        time.sleep(float(random.random()) / 100)


def rounds(count: int, seed: int, processes: int = PROCESSES) -> list[str]:
    """Return what went wrong in so many rounds, with a fresh cache each."""
    context, wrong = multiprocessing.get_context("forkserver"), list[str]()
    # What each process needs is imported once, for all of them.
    context.set_forkserver_preload(["tests.fuzz.together"])
    pipes = [context.Pipe() for _ in range(processes)]
    started = [context.Process(target=work, args=(n, theirs), daemon=True) for n, (_, theirs) in enumerate(pipes)]
    for process in started:
        process.start()
    assert [ours.recv() for ours, _ in pipes] == ["ready"] * processes
    for turn in range(count):
        with LoopbackHub() as hub, tempfile.TemporaryDirectory() as name:
            hub.put(REPO, sound())
            spoilt = turn % 2 == 1
            for number, (ours, _) in enumerate(pipes):
                own = seed + turn if spoilt and number == processes - 1 else None
                ours.send((hub.endpoint, Path(name), own))
            digests = set()
            for number, (ours, _) in enumerate(pipes):
                problem, digest = ours.recv() if ours.poll(PATIENCE) else ("it hangs", "")
                digests.add(digest)
                if problem or files_of(Path(name, f"out-{number}")) != sound():
                    wrong.append(f"round {turn}, process {number}: {problem or 'other bytes'}")
            if len(digests) > 1:
                wrong.append(f"round {turn}: the digests differ: {digests}")
            wrong += [f"round {turn}: {problem}" for problem in problems_of(Path(name, "cache"), spoilt=spoilt)]
    for process, (ours, _) in zip(started, pipes, strict=True):
        ours.send(None)
        process.join(PATIENCE)
        process.kill()
    return wrong


def problems_of(cache: Path, *, spoilt: bool) -> list[str]:
    """Return what is wrong with a cache of one commit after the last pull into it."""
    # Locks of the client stay; they are empty.
    files = [path for path in cache.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".lock"]
    blobs = [path for path in files if path.parent.name == "blobs"]
    problems = [f"{path.relative_to(cache)} is left" for path in files if path.suffix == ".incomplete"]
    if not spoilt:
        whole = {path for path in blobs if hashed(path.read_bytes(), large=len(path.name) == 64) == path.name}
        problems += [f"{path.relative_to(cache)} is damaged" for path in sorted(set(blobs) - whole)]
    if len(list(cache.rglob("snapshots/*/*"))) != len(sound()):
        problems.append("the commit in the cache lacks files, or has others")
    return problems


def annotate_at_once(processes: int = PROCESSES) -> list[str]:
    """Return what went wrong when so many commands annotate at once by a reference of the Hub, into a fresh cache."""
    # Here, as the processes of rounds do without: anndata takes seconds to import.
    import anndata

    from tests.fuzz.kills import CELLS, spikgpt

    wrong = []
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as name:
        hub.put(REPO, sound())
        folder = Path(name)
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "SPIKGPT_CACHE": str(folder / "cache")}
        outs = [(folder / f"{number}.h5ad", folder / f"{number}.csv") for number in range(processes)]
        commands = [spikgpt("annotate", CELLS, "--model", REPO, "--out", out, "--table", table) for out, table in outs]
        environment = os.environ | own | {"HF_TOKEN": "x"}
        running = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for command in commands]
        for number, process in enumerate(running):
            _, error = process.communicate(timeout=LONGEST)
            if process.returncode:
                wrong.append(f"command {number}: exit code {process.returncode}: {error}")
        if not wrong:
            wrong += [f"command {n}: another table" for n, (_, csv) in enumerate(outs) if not same(csv, outs[0][1])]
            columns = [anndata.read_h5ad(out, backed="r").obs["spikgpt_label"] for out, _ in outs]
            wrong += [f"command {n}: other labels" for n, own in enumerate(columns) if not own.equals(columns[0])]
        left = {path.name for path in folder.iterdir()} - {path.name for pair in outs for path in pair}
        wrong += [f"{path} is left" for path in sorted(left - {"home", "cache"})]
        wrong += problems_of(folder / "home" / "hub", spoilt=False)
    return wrong


def same(one: Path, other: Path) -> bool:
    """Return whether two files hold the same bytes."""
    return one.read_bytes() == other.read_bytes()


def main() -> int:
    """Print what went wrong; exit code 1 when something did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for what, wrong in (
        (f"pull at once, {options.count} times", rounds(options.count, options.seed)),
        ("annotate at once", annotate_at_once()),
    ):
        sys.stdout.write("\n".join([f"{PROCESSES} {what}: {len(wrong)} wrong", *wrong]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

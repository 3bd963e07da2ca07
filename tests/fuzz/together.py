"""Four processes that pull into one cache at once, one of which damages it: ``python -m tests.fuzz.together``.

Each has to end with the right bytes, every time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from spikgpt.errors import SpikGPTError
from spikgpt.reference.hub import Hub
from spikgpt.sharing import pull
from spikgpt.testing.hub import LoopbackHub
from tests.fuzz.answers import REPO, files_of, sound

PROCESSES = 4
# Seconds that a pull may take.
PATIENCE = 60.0


def work(number: int, pipe: Connection) -> None:
    """Pull whenever a round begins; the last process spoils what there is, before and while the others pull."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("ready")
    while asked := pipe.recv():
        endpoint, folder, seed = asked
        if number == PROCESSES - 1:
            spoil(folder / "cache", np.random.default_rng(seed))
        try:
            pull(REPO, folder / f"out-{number}", hub=Hub(endpoint, cache_dir=folder / "cache"))
            pipe.send("")
        except SpikGPTError as error:
            pipe.send(str(error))


def spoil(cache: Path, random: np.random.Generator) -> None:
    """Change files of a cache in place, as a disk does, while others read and write it."""
    for _ in range(20):
        blobs = sorted(path for path in cache.rglob("blobs/*") if path.suffix != ".incomplete")
        if blobs:
            with blobs[int(random.integers(len(blobs)))].open("r+b") as file:
                file.write(b"cosmic ray")
        time.sleep(float(random.random()) / 100)


def rounds(count: int, seed: int) -> list[str]:
    """Return what went wrong in so many rounds, with a fresh cache each."""
    context, wrong = multiprocessing.get_context("spawn"), list[str]()
    pipes = [context.Pipe() for _ in range(PROCESSES)]
    started = [context.Process(target=work, args=(n, theirs), daemon=True) for n, (_, theirs) in enumerate(pipes)]
    for process in started:
        process.start()
    assert [ours.recv() for ours, _ in pipes] == ["ready"] * PROCESSES
    for place in range(count):
        with LoopbackHub() as hub, tempfile.TemporaryDirectory() as name:
            hub.put(REPO, sound())
            for ours, _ in pipes:
                ours.send((hub.endpoint, Path(name), seed + place))
            for number, (ours, _) in enumerate(pipes):
                said = ours.recv() if ours.poll(PATIENCE) else "it hangs"
                if said or files_of(Path(name, f"out-{number}")) != sound():
                    wrong.append(f"round {place}, process {number}: {said or 'other bytes'}")
    for process, (ours, _) in zip(started, pipes, strict=True):
        ours.send(None)
        process.join(PATIENCE)
        process.kill()
    return wrong


def main() -> int:
    """Print what went wrong; exit code 1 when something did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = rounds(options.count, options.seed)
    sys.stdout.write(f"{PROCESSES} at once, {options.count} times: {len(wrong)} wrong\n" + "\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

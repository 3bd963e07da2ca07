"""Forged recipes, files of studies and scGPT checkpoints: ``python -m tests.fuzz.strangers --count 900 --seed 0``.

Each case is read, in a folder of its own, or refused in one line, within ten seconds. Anything else is a failure: a
crash, another exception, a hang, too much memory, and a file outside of the folders given.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from spikgpt.cells.reading import read_cells
from spikgpt.engines.scgpt.checkpoint import load_checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig, ScGPTEncoder
from spikgpt.errors import SpikGPTError
from spikgpt.scoring.ontology import ontology
from spikgpt_benchmark.process import peak_megabytes
from spikgpt_recipes.download import download
from spikgpt_recipes.plan import plan_build
from spikgpt_recipes.prepare import prepare
from spikgpt_recipes.readers.study import read_study
from spikgpt_recipes.recipe import find_recipe, read_recipe
from tests.fuzz.cells import CELLS, Answer, Worker
from tests.fuzz.outcomes import Counted, run, tally
from tests.fuzz.strange import SUBJECTS, Sound
from tests.spikgpt_recipes.conftest import islets_of
from tests.spikgpt_recipes.readers.test_study import files_of
from tests.spikgpt_recipes.study_files import READERS

# Seconds that a case may take, and MiB that the process may have beyond what it begins with.
PATIENCE, MEMORY = 60.0, 2048
GOOD = ("refused", "read")
# The types that the recipe has a label for, and so many cells of them.
TYPES, SOUND_CELLS = ("alpha", "beta", "delta", "ductal", "acinar", "endothelial"), 240


def work(folder: str, pipe: Connection) -> None:
    """Read the cases whose folders come through a pipe, in a process of its own with little memory."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.chdir(folder)
    warm()
    begin = peak_megabytes()
    resource.setrlimit(resource.RLIMIT_DATA, (int(begin + 2 * MEMORY) * 2**20,) * 2)
    pipe.send("ready")
    while True:
        path = pipe.recv()
        try:
            answer = tried(path)
        except BaseException:  # noqa: BLE001, that is what is looked for
            answer = Answer("traceback", traceback.format_exc()[-2500:])
        grown = peak_megabytes() - begin
        if grown > MEMORY:
            answer = Answer("memory", f"{grown:.0f} MiB more: {answer}")
        pipe.send(tuple(answer))


def warm() -> None:
    """Have modules loaded that are loaded on first use, which takes seconds."""
    config = ScGPTConfig(dim=8, heads=2, hidden=8, layers=1)
    with torch.device("meta"):
        ScGPTEncoder(config, 5, 0)
    file, genes = io.BytesIO(), torch.arange(5)[None]
    network = ScGPTEncoder(config, 5, 0).eval()
    torch.save(network.state_dict(), file)
    file.seek(0)
    network.load_state_dict(torch.load(file, weights_only=True))
    network.embed(genes, torch.ones_like(genes))
    ontology()


def tried(path: Path) -> Answer:
    """Read what lies in a folder, and return what became of it."""
    kind, _, study = (path / "kind").read_text().partition(" ")
    try:
        if kind == "recipe":
            recipe = read_recipe(find_recipe(str(path / "recipe")))
            plan = plan_build(recipe)
            paths = {
                one.study: download(one.files, path / "cache", str(path / "mirror"), accession=one.accession)
                for one in plan.studies
            }
            (path / "out").mkdir()
            prepare(recipe, plan.reference, paths, path / "out" / "cells.h5ad")
        elif kind == "study":
            files = files_of(READERS[study])
            list(read_study(files, {file.name: path / "files" / file.name for file in files}))
        else:
            genes = torch.arange(5)[None]
            load_checkpoint(path / "checkpoint").encoder().embed(genes, torch.ones_like(genes))
    except SpikGPTError as error:
        said = str(error)
        if "MemoryError" in said or "allocate" in said:
            return Answer("memory", said)
        return Answer("refused" if said.isprintable() and said else "several lines", said)
    return Answer("read")


def listing(folder: Path, leaving: Path) -> dict[str, bytes | None]:
    """Return what lies in a folder but for one of its folders."""
    return {
        str(part): part.read_bytes() if part.is_file() else None
        for part in folder.rglob("*")
        if not part.is_relative_to(leaving)
    }


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[Counted, list[str]]:
    """Return how often each damage came to each outcome, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        # Deep enough that paths out of a case end here, beside a file that must stay as it is.
        home = Path(folder, *"abcdef")
        home.mkdir(parents=True)
        for part in (home, *home.parents[:6]):
            (part / "GSE84133_RAW.tar").write_bytes(b"mine")
        cells = read_cells(CELLS)
        cells = cells[cells.obs["cell_type"].isin(TYPES)][:SOUND_CELLS].copy()
        sound = Sound(islets_of(cells), Path(folder))
        before = listing(Path(folder), home / "case")
        worker = Worker(str(home), work, PATIENCE)

        def attempt(number: int) -> tuple[str, str, str]:
            random = np.random.default_rng([seed, number])
            subject = list(SUBJECTS)[number % len(SUBJECTS)]
            path = home / "case"
            path.mkdir()
            kind = SUBJECTS[subject](sound, path, random)
            found = worker.answer(path)
            strays = [name for name, content in listing(Path(folder), path).items() if before.get(name, b"") != content]
            strays += [str(part) for part in path.iterdir() if part.name not in sound.folders]
            if kind == "sound" and found.outcome != "read":
                found = Answer("sound, but not read", found.said)
            if strays:
                found = Answer("file outside", f"{strays}: {found}")
            shutil.rmtree(path)
            told = found.outcome if found.outcome in GOOD else f"{found.outcome}: {found.said}"
            return f"{subject}: {kind}", told, json.dumps(f"{subject}, {kind}")

        found = tally(count, GOOD, attempt, progress=progress)
        worker.close()
    return found


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 900))

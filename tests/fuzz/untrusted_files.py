"""Read altered recipes, study files and scGPT checkpoints: ``python -m tests.fuzz.untrusted_files --count 900``.

Each case has its own folder. Its files must be read, or be refused with one line, within PATIENCE seconds.
Failures are a crash, another exception, a hang, too much memory, and a file outside of the folders given.
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
from tests.fuzz.alter_untrusted_files import SUBJECTS, ValidInputs
from tests.fuzz.cells import CELLS, FuzzWorker, WorkerResult
from tests.fuzz.outcome_table import OutcomeCounts, count_outcomes, run
from tests.spikgpt_recipes.conftest import islets_of
from tests.spikgpt_recipes.readers.test_study import files_of
from tests.spikgpt_recipes.study_files import READERS

# Seconds that a case may take, and MiB by which the memory of the process may grow.
PATIENCE, MEMORY = 60.0, 2048
GOOD = ("refused", "read")
# Cell types that have a label in the recipe, and the number of cells in the files.
TYPES, N_CELLS = ("alpha", "beta", "delta", "ductal", "acinar", "endothelial"), 240


def work(folder: str, pipe: Connection) -> None:
    """Read the cases whose folders come through a pipe; runs in a separate process with limited memory."""
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
            result = read_case(path)
        except BaseException:  # noqa: BLE001, any other exception is a failure
            result = WorkerResult("traceback", traceback.format_exc()[-2500:])
        grown = peak_megabytes() - begin
        if grown > MEMORY:
            result = WorkerResult("memory", f"{grown:.0f} MiB more: {result}")
        pipe.send(tuple(result))


def warm() -> None:
    """Load modules in advance, because loading the modules on first use takes seconds."""
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


def read_case(path: Path) -> WorkerResult:
    """Read the altered files in the folder of a case, and return the outcome."""
    kind, _, study = (path / "kind").read_text().partition(" ")
    try:
        if kind == "recipe":
            recipe = read_recipe(find_recipe(str(path / "recipe")))
            plan = plan_build(recipe)
            paths = {
                selection.study: download(
                    selection.files, path / "cache", str(path / "mirror"), accession=selection.accession
                )
                for selection in plan.studies
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
        message = str(error)
        if "MemoryError" in message or "allocate" in message:
            return WorkerResult("memory", message)
        return WorkerResult("refused" if message.isprintable() and message else "several lines", message)
    return WorkerResult("read")


def listing(folder: Path, excluded: Path) -> dict[str, bytes | None]:
    """Return the files and folders within a folder except one subfolder, with the bytes of files."""
    return {
        str(part): part.read_bytes() if part.is_file() else None
        for part in folder.rglob("*")
        if not part.is_relative_to(excluded)
    }


def fuzz(count: int, seed: int, *, progress: bool = False) -> tuple[OutcomeCounts, list[str]]:
    """Return the number of each outcome by kind of damage, and the failures."""
    with tempfile.TemporaryDirectory() as folder:
        # The cases run six levels deep, so that paths such as ../../x stay in the temporary folder.
        # Each of these folders has a file that must not change.
        home = Path(folder, *"abcdef")
        home.mkdir(parents=True)
        for part in (home, *home.parents[:6]):
            (part / "GSE84133_RAW.tar").write_bytes(b"mine")
        cells = read_cells(CELLS)
        cells = cells[cells.obs["cell_type"].isin(TYPES)][:N_CELLS].copy()
        valid = ValidInputs(islets_of(cells), Path(folder))
        before = listing(Path(folder), home / "case")
        worker = FuzzWorker(str(home), work, PATIENCE)

        def attempt(number: int) -> tuple[str, str, str]:
            random = np.random.default_rng([seed, number])
            subject = list(SUBJECTS)[number % len(SUBJECTS)]
            path = home / "case"
            path.mkdir()
            kind = SUBJECTS[subject](valid, path, random)
            result = worker.process(path)
            unexpected = [
                name for name, content in listing(Path(folder), path).items() if before.get(name, b"") != content
            ]
            unexpected += [str(part) for part in path.iterdir() if part.name not in valid.folders]
            if kind == "valid" and result.outcome != "read":
                result = WorkerResult("valid, but not read", result.message)
            if unexpected:
                result = WorkerResult("file outside", f"{unexpected}: {result}")
            shutil.rmtree(path)
            outcome = result.outcome if result.outcome in GOOD else f"{result.outcome}: {result.message}"
            return f"{subject}: {kind}", outcome, json.dumps(f"{subject}, {kind}")

        outcomes = count_outcomes(count, GOOD, attempt, progress=progress)
        worker.close()
    return outcomes


if __name__ == "__main__":
    sys.exit(run(fuzz, GOOD, __doc__, 900))

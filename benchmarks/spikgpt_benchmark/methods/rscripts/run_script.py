"""Run a script in R: write reference and query as files, and read the labels and times that the script writes."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

from spikgpt_benchmark.methods.preprocess import labels_of, to_linear
from spikgpt_benchmark.methods.result import MethodSettings

SCRIPTS = Path(__file__).parent
# Number of lines at the end of R's messages that an error repeats.
LINES = 2


def run_script(
    name: str, reference: AnnData, query: AnnData, settings: MethodSettings, *arguments: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run a script beside this file by ``Rscript FILE FOLDER ARGUMENTS``.

    The folder holds ``reference.mtx`` and ``query.mtx``, with linear values of shape (genes, cells), ``genes.txt`` and
    ``labels.txt``. The script writes ``cells.csv``, ``seconds.csv`` and ``versions.csv`` to the folder. The function
    returns the table of cells, and the times and versions as fields of a MethodResult.

    Raises
    ------
    LookupError
        When R lacks a package: the script exits with code 3 and names the package.
    ValueError
        When the script fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for side, values in (("reference", to_linear(reference)), ("query", to_linear(query, settings))):
            mmwrite(path / f"{side}.mtx", sparse.coo_matrix(values.T))
        (path / "genes.txt").write_text("\n".join(reference.var_names) + "\n")
        (path / "labels.txt").write_text("\n".join(labels_of(reference, settings.label_key)) + "\n")
        command = ["Rscript", "--vanilla", str(SCRIPTS / name), folder, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        message = " ".join(done.stderr.strip().splitlines()[-LINES:])
        if done.returncode == 3:
            raise LookupError(message)
        if done.returncode:
            msg = f"{name} failed in R: {message}"
            raise ValueError(msg)
        cells, seconds = (pd.read_csv(path / f"{part}.csv") for part in ("cells", "seconds"))
        versions = pd.read_csv(path / "versions.csv", dtype=str)
    times = {f"{step}_seconds": float(seconds[step].iloc[0]) for step in ("train", "predict")}
    return cells, {**times, "versions": dict(zip(versions["package"], versions["version"], strict=True))}

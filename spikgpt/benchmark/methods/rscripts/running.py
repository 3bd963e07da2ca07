"""Cells to a script in R, and what it says of them back."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

from spikgpt.benchmark.methods.answer import Settings
from spikgpt.benchmark.methods.preparing import labels_of, linear_of

SCRIPTS = Path(__file__).parent
# Lines of what R says that a user is shown.
LINES = 2


@dataclass(frozen=True)
class Said:
    """What a script wrote: a row for each cell of the query, seconds to train and to predict, versions by package."""

    cells: pd.DataFrame
    train_seconds: float
    predict_seconds: float
    versions: dict[str, str]


def run_script(name: str, reference: AnnData, query: AnnData, settings: Settings, *arguments: str) -> Said:
    """Run a script beside this file by ``Rscript FILE FOLDER ARGUMENTS``.

    The folder holds linear values, genes by cells, as ``reference.mtx`` and ``query.mtx``, and ``genes.txt`` and
    ``labels.txt``. The script writes ``cells.csv``, ``seconds.csv`` and ``versions.csv`` beside them.

    Raises
    ------
    LookupError
        When R lacks a package that the script needs; it leaves with exit code 3 and names them.
    ValueError
        When the script fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for side, values in (("reference", linear_of(reference)), ("query", linear_of(query, settings))):
            mmwrite(path / f"{side}.mtx", sparse.coo_matrix(values.T))
        (path / "genes.txt").write_text("\n".join(reference.var_names) + "\n")
        (path / "labels.txt").write_text("\n".join(labels_of(reference, settings.label_key)) + "\n")
        command = ["Rscript", "--vanilla", str(SCRIPTS / name), folder, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = " ".join(done.stderr.strip().splitlines()[-LINES:])
        if done.returncode == 3:
            raise LookupError(said)
        if done.returncode:
            msg = f"{name} failed in R: {said}"
            raise ValueError(msg)
        cells, seconds = (pd.read_csv(path / f"{part}.csv") for part in ("cells", "seconds"))
        versions = pd.read_csv(path / "versions.csv", dtype=str)
    return Said(
        cells,
        float(seconds["train"].iloc[0]),
        float(seconds["predict"].iloc[0]),
        dict(zip(versions["package"], versions["version"], strict=True)),
    )

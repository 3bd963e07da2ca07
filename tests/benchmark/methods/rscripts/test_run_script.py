from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.methods.result import MethodSettings
from spikgpt_benchmark.methods.rscripts.run_script import run_script

# A stand-in for Rscript that gives each cell the label of the first cell of the reference.
STAND_IN = """#!/bin/sh
test "$(basename "$2")" = singler.R || exit 9
cells=$(tail -n +2 "$3/query.mtx" | grep -v '^%' | head -n 1 | cut -d ' ' -f 2)
{ echo label; for cell in $(seq "$cells"); do head -n 1 "$3/labels.txt"; done; } > "$3/cells.csv"
printf 'train,predict\\n1.5,2\\n' > "$3/seconds.csv"
printf 'package,version\\nR,4.2\\nrows,%s\\n' "$(wc -l < "$3/genes.txt")" > "$3/versions.csv"
"""
SETTINGS = MethodSettings(seed=0, label_key="label")


@pytest.fixture
def pair() -> tuple[AnnData, AnnData]:
    genes = pd.DataFrame(index=["INS", "GCG", "SST"])
    obs = pd.DataFrame({"label": ["beta cell", "alpha"]}, index=["x", "y"])
    reference = AnnData(sparse.csr_matrix(np.eye(2, 3)), obs=obs, var=genes)
    return reference, AnnData(sparse.csr_matrix(np.ones((4, 3))), var=genes)


def install_rscript(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "Rscript"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_script_receives_cells_and_returns_labels(
    pair: tuple[AnnData, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_rscript(tmp_path, STAND_IN, monkeypatch)
    cells, fields = run_script("singler.R", *pair, SETTINGS, "1")
    assert cells["label"].tolist() == ["beta cell"] * 4
    assert fields == {"train_seconds": 1.5, "predict_seconds": 2.0, "versions": {"R": "4.2", "rows": "3"}}


@pytest.mark.parametrize(("code", "error"), [(3, LookupError), (1, ValueError)])
def test_missing_packages_and_failures_are_reported(
    code: int,
    error: type[Exception],
    pair: tuple[AnnData, AnnData],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_rscript(tmp_path, f"#!/bin/sh\necho 'R has no package X: install it' >&2\nexit {code}\n", monkeypatch)
    with pytest.raises(error, match="R has no package X: install it"):
        run_script("singler.R", *pair, SETTINGS)

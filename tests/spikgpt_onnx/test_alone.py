"""spikgpt-onnx in an environment of its own: without torch, with the oldest ONNX Runtime that it claims."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from tests.conftest import QUERY_FILE

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-runtime" / "bin"

LOOK = """
import importlib.metadata, importlib.util, json, sys
import spikgpt_onnx
installed = {distribution.name.lower() for distribution in importlib.metadata.distributions()}
found = [name for name in ("torch", "spikgpt", "scanpy", "anndata", "pandas", "onnx") if importlib.util.find_spec(name)]
print(json.dumps([importlib.metadata.version("onnxruntime"), found, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module", autouse=True)
def _made() -> None:
    assert (BIN / "python").exists(), "`make test` makes .venv-runtime; run that, or: make .venv-runtime/.ready"


def test_there_is_no_torch_and_the_oldest_onnxruntime() -> None:
    ran = subprocess.run([BIN / "python", "-I", "-c", LOOK], capture_output=True, text=True, check=True)
    version, found, imported = json.loads(ran.stdout)
    claimed = (ROOT / "export" / "pyproject.toml").read_text()
    assert f'cpu = ["onnxruntime>={version.removesuffix(".0")}"]' in claimed
    assert (found, imported) == ([], False)


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_the_demo_cells_get_the_labels_of_the_library(precision: str, shipped: SpikGPT, tmp_path: Path) -> None:
    command: list[str | Path] = [
        BIN / "spikgpt-onnx",
        "annotate",
        QUERY_FILE,
        "--model",
        "pancreas",
        "--precision",
        precision,
    ]
    subprocess.run([*command, "--out", tmp_path / "out.h5ad", "--table", tmp_path / "out.csv"], check=True)
    found = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    expected = shipped.annotate(read_cells(QUERY_FILE), progress=False)
    same = found["spikgpt_label"].to_numpy() == expected.labels
    assert same.mean() == 1 if precision == "fp32" else same.mean() > 0.995
    assert found.index.tolist() == expected.obs_names.tolist()
    written = read_cells(tmp_path / "out.h5ad")
    assert written.obs["spikgpt_label"].tolist() == found["spikgpt_label"].tolist()


def test_the_doctor_is_content() -> None:
    ran = subprocess.run([BIN / "spikgpt-onnx", "doctor"], capture_output=True, text=True, check=True)
    assert "ok  cpu: works" in ran.stdout
    assert "ok  anndata: not installed" in ran.stdout

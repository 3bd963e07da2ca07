"""What the extra `cpu` brings is enough to annotate: without torch, by the oldest ONNX Runtime claimed."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT, __version__
from spikgpt.cells.reading import read_cells
from spikgpt.reference.hub import Hub
from spikgpt.sharing import push
from spikgpt.testing.hub import LoopbackHub
from tests.cells.conftest import write_zarr
from tests.conftest import QUERY_FILE, TRAINED, labelled

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-runtime" / "bin"
ABSENT = ("torch", "spikingjelly", "scanpy", "sklearn", "matplotlib", "numba", "pyarrow")

# Test files that run there too: of what could be missed there. Then those in them that need what is absent.
CORE = """
    cli/test_annotate.py cli/test_flags.py cli/test_output.py
    embedding/test_obsm.py embedding/test_scgpt.py embedding/test_stored.py embedding/test_vocabulary.py
    reference/test_registry.py
    spikgpt_onnx/test_doctor.py spikgpt_onnx/test_engine.py
    test_errors.py test_exported_members.py test_files.py test_options.py test_sampling.py
"""
NEEDING_MORE = """
    test_errors.py::test_a_missing_package_is_named_with_its_version
    cli/test_annotate.py::test_a_process_with_an_empty_cache_pulls_by_name_and_annotates
    cli/test_annotate.py::test_both_engines_give_the_same_labels
    cli/test_annotate.py::test_outputs_that_cannot_be_written[options4-make
    spikgpt_onnx/test_engine.py::test_a_reference_without_that_graph_is_refused
    spikgpt_onnx/test_engine.py::test_the_engine_says_of_each_cell_what_torch_says
"""
# The installed spikgpt, and the tests of the checkout: its folder comes last.
PYTEST = """
import sys, pytest
sys.path.append(sys.argv[1])
sys.exit(pytest.main(["-q", "-o", "pythonpath=", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""
LOOK = """
import importlib.metadata, importlib.util, json, sys
import spikgpt, spikgpt_onnx
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
print(json.dumps([importlib.metadata.version("onnxruntime"), spikgpt.__version__, spikgpt.__file__, found]))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", autouse=True)
def _made() -> None:
    assert (BIN / "spikgpt").exists(), "`make test` makes .venv-runtime; run that, or: make .venv-runtime/.ready"


def python(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python there, with nothing of the checkout on its path."""
    command: list[str | Path] = [BIN / "python", "-P", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONSAFEPATH": "1"} | more, check=False
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command line there, in an empty folder and with an empty cache of the Hub."""

    def command(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "COLUMNS": "160"}
        ran = subprocess.run(
            [BIN / "spikgpt", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path / "empty",
            env=environment,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        return ran

    return command


@pytest.fixture(scope="module")
def expected(shipped: SpikGPT) -> Annotation:
    """Label the demo cells with torch."""
    return labelled(shipped.reference, read_cells(QUERY_FILE))


def test_what_is_installed_is_little_and_the_oldest() -> None:
    ran = python("-c", LOOK, *ABSENT)
    runtime, version, file, found = json.loads(ran.stdout)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["cpu"][1:] == [f"onnxruntime>={runtime.removesuffix('.0')}"]
    assert (version, found) == (__version__, [])
    assert "site-packages" in file


def test_the_version_is_told_without_heavy_packages(run: Run) -> None:
    assert run("--version").stdout == f"spikgpt {__version__}\n"
    # Python lists each module that it imports.
    imported = python("-X", "importtime", BIN / "spikgpt", "--version").stderr
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "typer" in names
    assert not names & {"numpy", "pandas", "scipy", "h5py", "zarr", "anndata", "onnxruntime", "huggingface_hub"}


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_the_demo_cells_get_the_labels_of_the_library(
    run: Run, precision: str, expected: Annotation, tmp_path: Path
) -> None:
    asked = ("annotate", QUERY_FILE, "--model", "pancreas", "--precision", precision)
    ran = run(*asked, "--out", tmp_path / "out.h5ad", "--table", tmp_path / "out.csv")
    assert "onnx on cpu" in ran.stderr
    found = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    same = found["spikgpt_label"].to_numpy() == expected.labels
    assert same.mean() == 1 if precision == "fp32" else same.mean() > 0.995
    assert found.index.tolist() == list(expected.obs_names)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["spikgpt_label"].tolist() == found["spikgpt_label"].tolist()
    np.testing.assert_allclose(written.obs["spikgpt_confidence"], found["spikgpt_confidence"], atol=1e-4)
    assert (written.X != read_cells(QUERY_FILE).X).nnz == 0


def test_a_zarr_folder_gets_them_too(run: Run, expected: Annotation, tmp_path: Path) -> None:
    write_zarr(read_cells(QUERY_FILE), tmp_path / "query.zarr", 3)
    run("annotate", tmp_path / "query.zarr", "--model", "pancreas", "--out", tmp_path / "out.zarr")
    written = anndata.read_zarr(tmp_path / "out.zarr")
    assert written.obs["spikgpt_label"].tolist() == expected.labels.tolist()
    assert written.obsm["spikgpt_probabilities"].shape == expected.probabilities.shape


def test_a_reference_is_pulled_verified_and_used_by_name(
    run: Run, hub: LoopbackHub, client: Hub, graph_folder: Path, few: AnnData, tmp_path: Path
) -> None:
    pushed = push(graph_folder, "islets/small", hub=client)
    there = ("--endpoint", hub.endpoint)
    run("pull", "islets/small", "--out", tmp_path / "small", *there)
    verified = run("verify", tmp_path / "small").stdout
    assert "onnx/model.onnx is what the weights make, byte for byte; not run, without torch: pip install" in verified
    few.write_h5ad(tmp_path / "few.h5ad")
    asked = ("annotate", tmp_path / "few.h5ad", "--table", tmp_path / "few.csv")
    run(*asked, "--model", "islets/small", *there)
    found = pd.read_csv(tmp_path / "few.csv")["spikgpt_label"].tolist()
    local = SpikGPT.from_pretrained(graph_folder)
    assert found == labelled(local.reference, few).labels.tolist()
    # What was pulled is in the cache, so that it is found without the Hub.
    hub.requests.clear()
    run(*asked, "--model", f"islets/small@{pushed.commit}", "--offline", *there)
    assert hub.requests == []


def test_cells_of_known_types_are_held_against_the_truth(run: Run, tmp_path: Path, shipped: SpikGPT) -> None:
    figures = tmp_path / "figures.json"
    run("evaluate", QUERY_FILE, "--model", "pancreas", "--label-key", "cell_type", "--json", figures)
    expected = shipped.evaluate(read_cells(QUERY_FILE), "cell_type").to_dict()
    found = json.loads(figures.read_text())
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["auroc_unknown"] == pytest.approx(expected["auroc_unknown"])


@pytest.mark.parametrize(
    ("asked", "package"),
    [
        (("train", QUERY_FILE, "--label-key", "cell_type", "--out", "mine"), "torch>=2.5"),
        (("novelty", QUERY_FILE, "--label-key", "cell_type"), "spikingjelly<3,>=2.0"),
        (("export", "pancreas", "--out", "mine"), "torch>=2.5"),
        (("annotate", QUERY_FILE, "--model", "pancreas", "--out", "mine.h5ad", "--engine", "torch"), "torch>=2.5"),
        (("annotate", QUERY_FILE, "--model", "pancreas", "--table", "mine.parquet"), "pyarrow>=15"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_what_needs_more_says_what_to_install(
    run: Run, asked: tuple[object, ...], package: str, tmp_path: Path
) -> None:
    said = run(*asked, code=2).stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("Error: This needs ")
    assert f"'{package}'" in said[0].partition(" Run: pip install ")[2]
    assert not list((tmp_path / "empty").iterdir())


def test_the_doctor_is_content(run: Run) -> None:
    said = run("doctor").stdout
    assert "ok  cpu: works" in said
    assert "ok  torch: not installed; optional: pip install 'torch>=2.5'" in said


def test_the_core_tests_pass_there(graph_folder: Path) -> None:
    chosen = [ROOT / "tests" / name for name in CORE.split()]
    left_out = [f"--deselect=tests/{name.strip()}" for name in NEEDING_MORE.strip().splitlines()]
    ran = python("-c", PYTEST, ROOT, *left_out, *chosen, **{TRAINED: str(graph_folder)})
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]

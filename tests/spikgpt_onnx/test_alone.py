"""Annotation without torch: the extra `cpu` with the oldest supported ONNX Runtime, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT, __version__
from spikgpt.cells.reading import read_cells
from spikgpt.reference.hub import Hub
from spikgpt.sharing import push
from tests.cells.conftest import write_zarr
from tests.conftest import QUERY_FILE, TRAINED, labelled
from tests.hub_server import LoopbackHub

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-runtime" / "bin"
ABSENT = ("torch", "spikingjelly", "scanpy", "sklearn", "matplotlib", "pyarrow")

# Tests that also run in the environment without torch: their results could depend on missing packages or on the oldest
# ONNX Runtime. A few tests of commands are enough. LEFT_OUT lists tests that need an absent package or repeat a test of
# this file.
CORE = """
    cli/test_annotate.py::test_a_lock_file_and_a_digest_keep_the_reference
    cli/test_annotate.py::test_a_table_alone_is_enough_and_every_option_reaches_the_run
    cli/test_annotate.py::test_annotate_writes_the_file_and_the_table
    cli/test_annotate.py::test_clusters_are_named_by_vote
    cli/test_annotate.py::test_unreadable_cells_are_refused
    cli/test_flags.py cli/test_output.py
    embedding/test_obsm.py embedding/test_scgpt.py embedding/test_stored.py embedding/test_vocabulary.py
    reference/test_registry.py
    engines/test_batches.py engines/test_doctor.py engines/test_onnx.py
    test_errors.py test_exported_members.py test_files.py test_options.py test_sampling.py
"""
LEFT_OUT = """
    test_errors.py::test_a_missing_package_is_named_with_its_version
    engines/test_onnx.py::test_a_reference_is_pulled_by_name
    engines/test_onnx.py::test_a_reference_without_the_graph_is_refused
    engines/test_onnx.py::test_outputs_equal_those_of_torch
    engines/test_onnx.py::test_without_torch_and_scanpy_the_files_are_the_same
"""
# Program that runs tests of the checkout on the installed spikgpt: the checkout is last in sys.path.
PYTEST = """
import sys, pytest
sys.path.append(sys.argv[1])
sys.exit(pytest.main(["-q", "-o", "pythonpath=", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""
# Program that runs command lines in one process, and prints their exit codes.
COMMANDS = """
import json, sys
from spikgpt.cli.main import main
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as error:
        print(error.code)
"""
LOOK = """
import importlib.metadata, importlib.util, json, sys
import spikgpt, spikgpt_onnx
installed = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
print(json.dumps([importlib.metadata.version("onnxruntime"), spikgpt.__version__, spikgpt.__file__, installed]))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", autouse=True)
def _environment_exists() -> None:
    assert (BIN / "spikgpt").exists(), "`make test` makes .venv-runtime; run that, or: make .venv-runtime/.ready"


def environment(**more: str) -> dict[str, str]:
    """Return the environment variables without PYTHONPATH, so that Python does not import from the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "160"} | more


def python(
    *arguments: object, cwd: Path = ROOT, more: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Run Python in the environment without torch, with additional environment variables."""
    command: list[str | Path] = [BIN / "python", "-P", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment(PYTHONSAFEPATH="1", **more), check=False
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs spikgpt without torch, in an empty folder and with an empty cache of the Hub."""

    def command(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        ran = subprocess.run(
            [BIN / "spikgpt", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path / "empty",
            env=environment(HF_HOME=str(tmp_path / "hub")),
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        return ran

    return command


@pytest.fixture(scope="module")
def expected(shipped: SpikGPT) -> Annotation:
    """Annotate the demo cells with torch."""
    return labelled(shipped.reference, read_cells(QUERY_FILE))


def test_the_environment_has_the_oldest_onnx_runtime_and_no_optional_packages() -> None:
    ran = python("-c", LOOK, *ABSENT)
    runtime, version, file, installed = json.loads(ran.stdout)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"onnxruntime>={runtime.removesuffix('.0')}" in extras["cpu"]
    assert (version, installed) == (__version__, [])
    assert "site-packages" in file


def test_the_version_is_printed_without_importing_large_packages(run: Run) -> None:
    assert run("--version").stdout == f"spikgpt {__version__}\n"
    # Python lists each module that it imports.
    imported = python("-X", "importtime", BIN / "spikgpt", "--version").stderr
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "spikgpt" in names
    assert not names & {"numpy", "pandas", "scipy", "h5py", "zarr", "anndata", "onnxruntime", "huggingface_hub"}


def test_the_command_line_gives_the_demo_cells_the_labels_of_torch(
    run: Run, expected: Annotation, tmp_path: Path
) -> None:
    command = ("annotate", QUERY_FILE, "--model", "pancreas", "--precision", "fp32")
    ran = run(*command, "--out", tmp_path / "out.h5ad", "--table", tmp_path / "out.csv")
    assert "onnx on cpu" in ran.stderr
    table = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    assert table["spikgpt_label"].tolist() == expected.labels.tolist()
    assert table.index.tolist() == list(expected.obs_names)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["spikgpt_label"].tolist() == table["spikgpt_label"].tolist()
    np.testing.assert_allclose(written.obs["spikgpt_confidence"], table["spikgpt_confidence"], atol=1e-4)
    assert (written.X != read_cells(QUERY_FILE).X).nnz == 0


@pytest.mark.slow
def test_a_zarr_folder_gets_the_labels_of_torch(run: Run, expected: Annotation, tmp_path: Path) -> None:
    write_zarr(read_cells(QUERY_FILE), tmp_path / "query.zarr", 3)
    run("annotate", tmp_path / "query.zarr", "--model", "pancreas", "--out", tmp_path / "out.zarr")
    written = anndata.read_zarr(tmp_path / "out.zarr")
    assert written.obs["spikgpt_label"].tolist() == expected.labels.tolist()
    assert written.obsm["spikgpt_probabilities"].shape == expected.probabilities.shape


@pytest.mark.slow
def test_a_reference_is_pulled_verified_and_used_without_torch(
    run: Run, hub: LoopbackHub, client: Hub, graph_folder: Path, few: AnnData, tmp_path: Path
) -> None:
    pushed = push(graph_folder, "islets/small", hub=client)
    endpoint = ("--endpoint", hub.endpoint)
    run("pull", "islets/small", "--out", tmp_path / "small", *endpoint)
    verified = run("verify", tmp_path / "small").stdout
    assert (
        "onnx/model.onnx equals the graph of the weights, byte for byte; not run, without torch: pip install"
        in verified
    )
    few.write_h5ad(tmp_path / "few.h5ad")
    command = ("annotate", tmp_path / "few.h5ad", "--table", tmp_path / "few.csv")
    run(*command, "--model", "islets/small", *endpoint)
    labels = pd.read_csv(tmp_path / "few.csv")["spikgpt_label"].tolist()
    local = SpikGPT.from_pretrained(graph_folder)
    assert labels == labelled(local.reference, few).labels.tolist()
    # The pulled reference is in the cache, so the Hub is not needed.
    hub.requests.clear()
    run(*command, "--model", f"islets/small@{pushed.commit}", "--offline", *endpoint)
    assert hub.requests == []


@pytest.mark.slow
def test_evaluate_without_torch_gives_the_same_metrics(run: Run, tmp_path: Path, shipped: SpikGPT) -> None:
    metrics_file = tmp_path / "figures.json"
    run("evaluate", QUERY_FILE, "--model", "pancreas", "--label-key", "cell_type", "--json", metrics_file)
    expected = shipped.evaluate(read_cells(QUERY_FILE), "cell_type").to_dict()
    metrics = json.loads(metrics_file.read_text())
    assert metrics["accuracy"] == pytest.approx(expected["accuracy"])
    assert metrics["auroc_unknown"] == pytest.approx(expected["auroc_unknown"])


def test_commands_that_need_a_missing_package_name_it(tmp_path: Path) -> None:
    annotate = ["annotate", str(QUERY_FILE), "--model", "pancreas"]
    commands = [
        ("torch>=2.5", ["train", str(QUERY_FILE), "--label-key", "cell_type", "--out", "mine"]),
        ("spikingjelly<3,>=2.0", ["leave-one-type-out", str(QUERY_FILE), "--label-key", "cell_type"]),
        ("torch>=2.5", ["export", "pancreas", "--out", "mine"]),
        ("torch>=2.5", [*annotate, "--out", "mine.h5ad", "--engine", "torch"]),
        ("pyarrow>=15", [*annotate, "--table", "mine.parquet"]),
    ]
    ran = python("-c", COMMANDS, json.dumps([words for _, words in commands]), cwd=tmp_path)
    assert ran.stdout.split() == ["2"] * len(commands), ran.stderr
    for line, (package, _) in zip(ran.stderr.splitlines(), commands, strict=True):
        assert line.startswith("Error: This needs ")
        assert f"'{package}'" in line.partition(" Run: pip install ")[2]
    assert not list(tmp_path.iterdir())


def test_doctor_reports_cpu_ok_and_torch_optional(run: Run) -> None:
    output = run("doctor").stdout
    assert "ok  cpu: works" in output
    assert "ok  torch: not installed; optional: pip install 'torch>=2.5'" in output


def test_the_listed_tests_exist() -> None:
    for name in [*CORE.split(), *LEFT_OUT.split()]:
        file, _, function = name.partition("::")
        assert (f"def {function}(" if function else "def test_") in (ROOT / "tests" / file).read_text(), name


@pytest.mark.slow
def test_the_core_tests_pass_without_torch(graph_folder: Path) -> None:
    chosen = [ROOT / "tests" / name for name in CORE.split()]
    left_out = [f"--deselect=tests/{name.strip()}" for name in LEFT_OUT.strip().splitlines()]
    ran = python("-c", PYTEST, ROOT, *left_out, *chosen, more={TRAINED: str(graph_folder)})
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]

"""The chosen engine or the default engine opens; otherwise, the error states the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from anndata import AnnData

from spikgpt.engines.numpy import NumpyEngine
from spikgpt.engines.onnx import OnnxEngine
from spikgpt.engines.opening import open_engine
from spikgpt.engines.scgpt.source import open_scgpt
from spikgpt.engines.torch import TorchEngine
from spikgpt.errors import CheckpointError, ConfigError, GraphError
from spikgpt.options import EngineOptions, TrainOptions
from spikgpt.reference.files import Reference, read_reference
from spikgpt.training.train import train
from spikgpt_onnx.exporter import export
from spikgpt_onnx.parity import ExportableReference
from tests.conftest import DATA

SCGPT = DATA / "scgpt_baron"


def test_onnx_is_the_default_for_a_reference_with_a_graph(small: Reference, graph_folder: Path) -> None:
    exported = read_reference(graph_folder)
    assert isinstance(open_engine(exported), OnnxEngine)
    assert isinstance(open_engine(exported, EngineOptions(engine="torch")), TorchEngine)
    assert isinstance(open_engine(exported, EngineOptions(engine="numpy")), NumpyEngine)
    assert isinstance(open_engine(exported, EngineOptions(precision="int8")), NumpyEngine)
    assert isinstance(open_engine(small), NumpyEngine)
    with pytest.raises(ConfigError, match=r"provider is 'cuda'"):
        open_engine(small, EngineOptions(provider="cuda"))
    with pytest.raises(GraphError, match=r"has no onnx/model.onnx; make it with"):
        open_engine(small, EngineOptions(engine="onnx"))


def test_scgpt_is_read_from_the_given_folder(cells: AnnData, tmp_path: Path) -> None:
    options = TrainOptions(name="scgpt", recipe="paper")
    reference = train(cells, "cell_type", embedder=open_scgpt(SCGPT, max_length=50), options=options)
    with pytest.raises(CheckpointError, match="needs the scGPT checkpoint 'scgpt_baron'; give its folder with scgpt="):
        open_engine(reference)
    engine = open_engine(reference, scgpt=SCGPT)
    assert isinstance(engine, TorchEngine)
    assert (engine.embedding.kind, engine.embedding.dim) == ("scgpt", reference.config.input_dim)
    with pytest.raises(CheckpointError, match="nowhere is no folder; expected args.json"):
        open_engine(reference, scgpt=tmp_path / "nowhere")
    # The exported graph includes the scGPT encoder. The torch engine still opens if a checkpoint folder is given.
    export(ExportableReference(reference, engine), tmp_path / "out")
    exported = read_reference(tmp_path / "out")
    assert isinstance(open_engine(exported), OnnxEngine)
    assert isinstance(open_engine(exported, scgpt=SCGPT), TorchEngine)


# Program that prints, for each pair of package and engine, which engine opens without the package, or the error.
WITHOUT = """
import sys
from spikgpt.engines.opening import open_engine
from spikgpt.errors import SpikGPTError
from spikgpt.options import EngineOptions
from spikgpt.sharing import open_reference
for pair in sys.argv[1:]:
    missing, engine = pair.split(":")
    sys.modules[missing] = None
    try:
        print(open_engine(open_reference("pancreas"), EngineOptions(engine=engine)).name)
    except SpikGPTError as error:
        print(error)
    del sys.modules[missing]
"""


def test_a_missing_package_is_named() -> None:
    # onnxruntime:onnx comes first, because a module that has imported onnxruntime keeps the import.
    expected = {
        "onnxruntime:onnx": "Run: pip install 'onnxruntime>=1.20', or onnxruntime-gpu, not both.",
        "torch:torch": "Run: pip install 'torch>=2.5'",
        "torch:auto": "onnx on cpu",
        "torch:numpy": "numpy on cpu",
        "onnxruntime:auto": "numpy on cpu",
    }
    ran = subprocess.run([sys.executable, "-c", WITHOUT, *expected], capture_output=True, text=True, check=True)
    for line, message in zip(ran.stdout.splitlines(), expected.values(), strict=True):
        assert message in line

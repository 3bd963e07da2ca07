"""The engine that was asked for, or the one that fits, or the reason why there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spikgpt.engines.opening import open_engine
from spikgpt.engines.torch import TorchEngine
from spikgpt.errors import GraphError
from spikgpt.options import EngineOptions
from spikgpt.reference.files import ReferenceFiles, read_reference
from spikgpt_onnx.engine import OnnxEngine


def test_onnx_is_taken_where_there_is_a_graph(small: ReferenceFiles, graph_folder: Path) -> None:
    exported = read_reference(graph_folder)
    assert isinstance(open_engine(exported), OnnxEngine)
    assert isinstance(open_engine(exported, EngineOptions(engine="torch")), TorchEngine)
    assert isinstance(open_engine(exported, EngineOptions(precision="int8")), TorchEngine)
    assert isinstance(open_engine(small), TorchEngine)
    with pytest.raises(GraphError, match=r"has no onnx/model.onnx; make it with"):
        open_engine(small, EngineOptions(engine="onnx"))


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from spikgpt.engines.opening import open_engine
from spikgpt.errors import SpikGPTError
from spikgpt.options import EngineOptions
from spikgpt.sharing import open_reference
try:
    print(open_engine(open_reference("pancreas"), EngineOptions(engine=sys.argv[2])).name)
except SpikGPTError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("missing", "engine", "said"),
    [
        ("torch", "torch", "pip install 'spikgpt[train]'"),
        ("torch", "auto", "onnx on cpu"),
        ("onnxruntime", "onnx", "pip install 'spikgpt[cpu]'"),
    ],
)
def test_what_is_missing_is_named_by_its_extra(missing: str, engine: str, said: str) -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT, missing, engine], capture_output=True, text=True, check=True)
    assert said in ran.stdout
    assert len(ran.stdout.splitlines()) == 1

"""A graph runs where it was asked to, or the reason is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from spikgpt.engines import onnx_session as runtime
from spikgpt.engines.onnx_session import Session
from spikgpt.errors import ConfigError, GraphError
from spikgpt.options import EngineOptions, options_of
from spikgpt.reference.files import Reference
from spikgpt.reference.format import GRAPH
from spikgpt_onnx.parity import golden_cells
from tests.conftest import exportable


@pytest.fixture(scope="module")
def content(graph_folder: Path) -> bytes:
    return (graph_folder / GRAPH).read_bytes()


def test_importing_the_runtime_loads_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, spikgpt_onnx, spikgpt.engines.onnx_session, spikgpt.engines.doctor\n"
        "print(sorted({'torch', 'scanpy', 'sklearn', 'matplotlib', 'numba', 'onnx'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="provider is 'gpu'"):
        options_of(EngineOptions, {"provider": "gpu"})
    with pytest.raises(ConfigError, match="threads is 0"):
        options_of(EngineOptions, {"threads": 0})


def test_every_way_to_run_gives_the_same(content: bytes, small: Reference) -> None:
    inputs = golden_cells(exportable(small), 300).inputs
    expected = Session(content, EngineOptions(provider="cpu")).run(inputs)
    for options in (
        EngineOptions(),
        EngineOptions(memory_arena=False),
        EngineOptions(provider="cpu", whole_graph=False, io_binding=False),
    ):
        found = Session(content, options, threads=2).run(inputs)
        assert found.keys() == {"probabilities", "confidence", "energy", "vector", "best_label", "label"}
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-6)
        np.testing.assert_array_equal(found["label"], expected["label"])


def test_bound_inputs_and_outputs_give_the_same(content: bytes, small: Reference) -> None:
    # What a GPU session does; ONNX Runtime binds on a CPU in the same calls.
    inputs = golden_cells(exportable(small), 300).inputs
    session = Session(content, EngineOptions(provider="cpu"))
    expected = session.run(inputs)
    session.provider = "bound"
    found = session.run(inputs)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_cell_without_counts_is_unknown_inside_the_graph(content: bytes, small: Reference) -> None:
    inputs = golden_cells(exportable(small), 4).inputs
    inputs["counts"][1], inputs["total"][1] = 0, 0
    found = Session(content).run(inputs)
    assert (found["probabilities"][1].max(), found["confidence"][1], found["label"][1]) == (0, 0, -1)
    assert (found["probabilities"][[0, 2, 3]].sum(axis=1) > 0.99).all()


def test_what_is_no_graph_is_said_to_be_none(content: bytes) -> None:
    for wrong in (b"", b"not a graph", content[: len(content) // 2]):
        with pytest.raises(GraphError, match="is no ONNX graph"):
            Session(wrong)
        with pytest.raises(GraphError, match=f"cannot be run on cpu by onnxruntime {onnxruntime.__version__}"):
            Session(wrong, trusted=True)


def test_what_the_runtime_cannot_run_is_one_error_on_one_line(content: bytes, small: Reference) -> None:
    inputs = golden_cells(exportable(small), 4).inputs
    session = Session(content, EngineOptions(provider="cpu"))
    missing = {name: array for name, array in inputs.items() if name != "total"}
    for wrong in (missing, inputs | {"counts": inputs["counts"][:, :-1]}, inputs | {"strange": np.zeros(3)}):
        for where in ("cpu", "bound"):
            session.provider = where
            with pytest.raises(
                GraphError, match=rf"^ONNX Runtime cannot run this batch on {where}: .+ Try a .+$"
            ) as said:
                session.run(wrong)
            assert "\n" not in str(said.value)


def test_a_graph_cannot_name_other_files(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(content)
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "graph.onnx")
    assert (tmp_path / "weights.bin").is_file()
    with pytest.raises(GraphError, match="wants to read the tensor '.*' from another file"):
        Session((tmp_path / "graph.onnx").read_bytes())
    # And should one not be read before: ONNX Runtime seeks the file in an empty folder.
    with pytest.raises(GraphError, match="cannot be run on cpu"):
        Session((tmp_path / "graph.onnx").read_bytes(), trusted=True)


class Pretended(ModuleType):
    """An onnxruntime whose GPU is, or is not, there; ONNX Runtime itself does the rest."""

    def __init__(self, available: list[str], taken: list[str]) -> None:
        super().__init__("onnxruntime")
        self.available, self.taken = available, taken
        self.asked: list[Any] = []
        self.SessionOptions, self.__version__ = onnxruntime.SessionOptions, onnxruntime.__version__

    def get_available_providers(self) -> list[str]:
        return self.available

    def InferenceSession(self, content: bytes, options: Any, providers: list[Any]) -> Any:
        self.asked.append((providers, options))
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: self.taken
        return session


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


def test_a_gpu_that_silently_became_a_cpu_is_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pretended = Pretended([TENSORRT, CUDA, CPU], [CPU])
    monkeypatch.setattr(runtime, "onnxruntime_module", lambda: pretended)
    with pytest.raises(GraphError, match="took CPUExecutionProvider instead of cuda: there is no such device"):
        Session(content, EngineOptions(provider="cuda"))
    assert Session(content, EngineOptions(provider="auto")).provider == "cpu"


def test_a_gpu_is_taken_when_there_is_one(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretended = Pretended([TENSORRT, CUDA, CPU], [CUDA, CPU])
    monkeypatch.setattr(runtime, "onnxruntime_module", lambda: pretended)
    assert Session(content).provider == "cuda"
    ((providers, options),) = pretended.asked
    assert [name for name, _ in providers] == [CUDA]
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    Session(content, EngineOptions(provider="cuda", whole_graph=False))
    with pytest.raises(RuntimeError, match="session.disable_cpu_ep_fallback"):
        pretended.asked[1][1].get_session_config_entry("session.disable_cpu_ep_fallback")
    pretended.taken = [TENSORRT, CUDA, CPU]
    assert Session(content, EngineOptions(provider="tensorrt", engine_cache=tmp_path)).provider == "tensorrt"
    providers, _ = pretended.asked[-1]
    assert [name for name, _ in providers] == [TENSORRT, CUDA]
    assert providers[0][1] == {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(tmp_path)}


def test_no_gpu_build_says_what_to_install(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "onnxruntime_module", lambda: Pretended([CPU], [CPU]))
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(GraphError, match=rf"has no {provider}\. Run: pip .* pip install 'onnxruntime-gpu>=.*'"):
            Session(content, EngineOptions(provider=provider))


def test_both_distributions_are_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "version", lambda name: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}[name])
    with pytest.raises(GraphError, match=r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.1 are both installed"):
        Session(content)


def test_no_onnxruntime_says_what_to_install(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        GraphError, match=r"cannot be imported .*pip install 'onnxruntime>=1\.20', or onnxruntime-gpu, not both"
    ):
        Session(content)

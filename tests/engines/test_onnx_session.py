"""A graph runs on the chosen device, or the error states the reason."""

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


def test_all_session_options_give_the_same_outputs(content: bytes, small: Reference) -> None:
    inputs = golden_cells(exportable(small), 300).inputs
    expected = Session(content, EngineOptions(provider="cpu")).run(inputs)
    for options in (
        EngineOptions(),
        EngineOptions(memory_arena=False),
        EngineOptions(provider="cpu", whole_graph=False, io_binding=False),
    ):
        outputs = Session(content, options, threads=2).run(inputs)
        assert outputs.keys() == {"probabilities", "confidence", "energy", "vector", "best_label", "label"}
        np.testing.assert_allclose(outputs["probabilities"], expected["probabilities"], atol=1e-6)
        np.testing.assert_array_equal(outputs["label"], expected["label"])


def test_bound_inputs_and_outputs_give_the_same(content: bytes, small: Reference) -> None:
    # On a GPU, a session binds inputs and outputs to device memory. ONNX Runtime accepts the same calls on a CPU.
    inputs = golden_cells(exportable(small), 300).inputs
    session = Session(content, EngineOptions(provider="cpu"))
    expected = session.run(inputs)
    session.provider = "bound"
    outputs = session.run(inputs)
    assert outputs.keys() == expected.keys()
    for name in outputs:
        np.testing.assert_array_equal(outputs[name], expected[name])


def test_a_cell_without_counts_is_unknown_inside_the_graph(content: bytes, small: Reference) -> None:
    inputs = golden_cells(exportable(small), 4).inputs
    inputs["counts"][1], inputs["total"][1] = 0, 0
    outputs = Session(content).run(inputs)
    assert (outputs["probabilities"][1].max(), outputs["confidence"][1], outputs["label"][1]) == (0, 0, -1)
    assert (outputs["probabilities"][[0, 2, 3]].sum(axis=1) > 0.99).all()


def test_invalid_graphs_are_refused(content: bytes) -> None:
    for invalid in (b"", b"not a graph", content[: len(content) // 2]):
        with pytest.raises(GraphError, match="is no ONNX graph"):
            Session(invalid)
        with pytest.raises(GraphError, match=f"cannot be run on cpu by onnxruntime {onnxruntime.__version__}"):
            Session(invalid, trusted=True)


def test_a_batch_that_cannot_run_gives_an_error_of_one_line(content: bytes, small: Reference) -> None:
    inputs = golden_cells(exportable(small), 4).inputs
    session = Session(content, EngineOptions(provider="cpu"))
    missing = {name: array for name, array in inputs.items() if name != "total"}
    for invalid in (missing, inputs | {"counts": inputs["counts"][:, :-1]}, inputs | {"strange": np.zeros(3)}):
        for device in ("cpu", "bound"):
            session.provider = device
            with pytest.raises(
                GraphError, match=rf"^ONNX Runtime cannot run this batch on {device}: .+ Try a .+$"
            ) as refused:
                session.run(invalid)
            assert "\n" not in str(refused.value)


def test_a_graph_that_names_other_files_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(content)
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "graph.onnx")
    assert (tmp_path / "weights.bin").is_file()
    with pytest.raises(GraphError, match="wants to read the tensor '.*' from another file"):
        Session((tmp_path / "graph.onnx").read_bytes())
    # A trusted graph is not checked, but ONNX Runtime looks for the file in an empty folder.
    with pytest.raises(GraphError, match="cannot be run on cpu"):
        Session((tmp_path / "graph.onnx").read_bytes(), trusted=True)


class FakeRuntime(ModuleType):
    """Stand-in for onnxruntime that reports the given providers; its sessions run on the CPU."""

    def __init__(self, available: list[str], used: list[str]) -> None:
        super().__init__("onnxruntime")
        self.available, self.used = available, used
        self.requests: list[Any] = []
        self.SessionOptions, self.__version__ = onnxruntime.SessionOptions, onnxruntime.__version__

    def get_available_providers(self) -> list[str]:
        return self.available

    def InferenceSession(self, content: bytes, options: Any, providers: list[Any]) -> Any:
        self.requests.append((providers, options))
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: self.used
        return session


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


def test_a_gpu_that_silently_became_a_cpu_is_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_module = FakeRuntime([TENSORRT, CUDA, CPU], [CPU])
    monkeypatch.setattr(runtime, "onnxruntime_module", lambda: runtime_module)
    with pytest.raises(GraphError, match="took CPUExecutionProvider instead of cuda: there is no such device"):
        Session(content, EngineOptions(provider="cuda"))
    assert Session(content, EngineOptions(provider="auto")).provider == "cpu"


def test_an_available_gpu_is_used(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime_module = FakeRuntime([TENSORRT, CUDA, CPU], [CUDA, CPU])
    monkeypatch.setattr(runtime, "onnxruntime_module", lambda: runtime_module)
    assert Session(content).provider == "cuda"
    ((providers, options),) = runtime_module.requests
    assert [name for name, _ in providers] == [CUDA]
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    Session(content, EngineOptions(provider="cuda", whole_graph=False))
    with pytest.raises(RuntimeError, match="session.disable_cpu_ep_fallback"):
        runtime_module.requests[1][1].get_session_config_entry("session.disable_cpu_ep_fallback")
    runtime_module.used = [TENSORRT, CUDA, CPU]
    assert Session(content, EngineOptions(provider="tensorrt", engine_cache=tmp_path)).provider == "tensorrt"
    providers, _ = runtime_module.requests[-1]
    assert [name for name, _ in providers] == [TENSORRT, CUDA]
    assert providers[0][1] == {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(tmp_path)}


def test_without_a_gpu_build_the_error_names_the_install_command(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "onnxruntime_module", lambda: FakeRuntime([CPU], [CPU]))
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(GraphError, match=rf"has no {provider}\. Run: pip .* pip install 'onnxruntime-gpu>=.*'"):
            Session(content, EngineOptions(provider=provider))


def test_both_distributions_are_refused(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "version", lambda name: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}[name])
    with pytest.raises(GraphError, match=r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.1 are both installed"):
        Session(content)


def test_without_onnxruntime_the_error_names_the_install_command(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        GraphError, match=r"cannot be imported .*pip install 'onnxruntime>=1\.20', or onnxruntime-gpu, not both"
    ):
        Session(content)

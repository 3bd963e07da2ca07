"""The model repository for Triton states the names, types and shapes of the graph."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from spikgpt import SpikGPT
from spikgpt.errors import ConfigError
from spikgpt_onnx.triton import export_triton
from tests.conftest import exportable

# Tensor types of ONNX Runtime by the names in Triton.
TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)"}


def entries(config: str, section: str) -> dict[str, Any]:
    """Return the type, the shape and the flag ``optional`` of each input or output of a configuration, by name."""
    (block,) = re.findall(rf"^{section} \[\n(.*?)\n\]$", config, re.DOTALL | re.MULTILINE)
    tensors = {}
    for entry in re.findall(r"\{(.*?)\}", block, re.DOTALL):
        fields = dict(line.strip().split(": ", 1) for line in entry.strip().splitlines())
        shape = [int(length) for length in fields["dims"].strip("[]").split(",")]
        tensors[fields["name"].strip('"')] = (TYPES[fields["data_type"]], shape, fields.get("optional") == "true")
    return tensors


def shape_of(value: Any) -> list[int]:
    return [-1 if isinstance(length, str) else length for length in value.shape] or [1]


def test_the_triton_configuration_matches_the_graph(shipped: SpikGPT, tmp_path: Path) -> None:
    folder, parity = export_triton(exportable(shipped.reference), tmp_path / "models")
    assert folder == tmp_path / "models" / "pancreas"
    assert parity.passed
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["1/model.onnx", "README.md", "config.pbtxt", "genes.json", "labels.json"]
    config = (folder / "config.pbtxt").read_text()
    assert config.startswith('name: "pancreas"\nbackend: "onnxruntime"\nmax_batch_size: 0\n')
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    # In Triton, initializers that can be overridden are optional inputs.
    expected = {value.name: (value.type, shape_of(value), False) for value in session.get_inputs()}
    expected |= {value.name: (value.type, shape_of(value), True) for value in session.get_overridable_initializers()}
    assert entries(config, "input") == expected
    assert {"counts", "total", "found", "threshold"} <= expected.keys()
    outputs = {value.name: (value.type, shape_of(value), False) for value in session.get_outputs()}
    assert entries(config, "output") == outputs
    counts = np.ones((3, expected["counts"][1][1]), dtype=np.float32)
    feed = {"counts": counts, "total": counts.sum(axis=1), "found": np.ones(counts.shape[1], dtype=np.float32)}
    assert session.run(["probabilities"], feed)[0].shape == (3, outputs["probabilities"][1][1])
    readme = (folder / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in (*expected, *outputs))
    assert "Unknown needs the whole query" in readme
    with pytest.raises(ConfigError, match="is there already"):
        export_triton(exportable(shipped.reference), tmp_path / "models")


def test_unsafe_characters_in_a_name_are_replaced(shipped: SpikGPT, tmp_path: Path) -> None:
    renamed = exportable(shipped.reference)
    renamed = replace(renamed, stored=replace(renamed.stored, name='../a "b'))
    folder, _ = export_triton(renamed, tmp_path / "models", precision="int8")
    assert folder == tmp_path / "models" / "___a__b"
    assert 'name: "___a__b"' in (folder / "config.pbtxt").read_text()

"""Write the graph of a reference as a model repository of the Triton Inference Server.

The configuration has no batching (``max_batch_size: 0``): some inputs have no axis of cells, so Triton could not
merge requests. A request holds any number of cells.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from spikgpt.errors import ConfigError
from spikgpt.files import check_target
from spikgpt.reference.format import GRAPHS, write_files
from spikgpt_onnx.exporter import checked_graphs
from spikgpt_onnx.parity import ExportableReference, GraphParity

# Triton's names of tensor types.
TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}
CONFIG, MODEL = "config.pbtxt", "1/model.onnx"
README = """# {name}, {labels} labels, for the Triton Inference Server

    tritonserver --model-repository FOLDER   # the folder that holds this one

The model turns cells into probabilities of labels. The graph does only a part of `spikgpt annotate`:

- Unknown needs the whole query, and Triton sees single requests. The output `label` is -1 only if the probability is
  below the threshold.
- Smoothing, the scaling of the query, the batches and the check of the reference need the whole query too.
- The cells must be aligned to the genes of `genes.json` already, in that order. `labels.json` has the labels by index.

For labels with Unknown over HTTP, run `spikgpt serve`. The page "The ONNX contract" of the documentation defines each
input and output. Optional inputs have the defaults of the reference.

{tensors}

Parity with the trained model: {parity}.
"""


def export_triton(
    reference: ExportableReference, folder: str | Path, *, precision: str = "fp32"
) -> tuple[Path, GraphParity]:
    """Write a reference as a model to a Triton model repository; return the model's folder and its graph's parity.

    Raises
    ------
    ParityError
        When the graph disagrees with the trained model. Nothing is written then.
    ConfigError
        When the model exists already, or cannot be written.
    """
    stored = reference.stored
    # The name may come from an untrusted reference, and becomes the name of a folder.
    model = re.sub(r"[^\w-]", "_", stored.name, flags=re.ASCII)
    target = Path(folder) / model
    if target.exists():
        msg = f"{target} is there already; remove it, or name another folder."
        raise ConfigError(msg)
    check_target(target)
    graphs, parities = checked_graphs(reference, (precision,))
    name = GRAPHS[precision]
    graph = onnx.load_from_string(graphs[name])
    readme = README.format(name=model, labels=len(stored.labels.names), tensors=_tensors(graph), parity=parities[name])
    files = {
        CONFIG: config_of(graph, model).encode(),
        MODEL: graphs[name],
        "README.md": readme.encode(),
        **{part: stored.files[part] for part in ("genes.json", "labels.json")},
    }
    return write_files(files, target), parities[name]


def config_of(graph: onnx.ModelProto, name: str) -> str:
    """Return Triton's configuration of a graph: names, types and shapes of its inputs and outputs."""
    defaults = {tensor.name for tensor in graph.graph.initializer}
    inputs = ",\n".join(_entry(value, optional=value.name in defaults) for value in graph.graph.input)
    outputs = ",\n".join(map(_entry, graph.graph.output))
    return f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: 0\ninput [\n{inputs}\n]\noutput [\n{outputs}\n]\n'


def _entry(value: onnx.ValueInfoProto, *, optional: bool = False) -> str:
    """Return an input or output in the configuration; -1 stands for any number of cells, a scalar has the shape 1."""
    shape = ", ".join(map(str, _shape(value))) or "1"
    fields = [f'name: "{value.name}"', f"data_type: {TYPES[value.type.tensor_type.elem_type]}", f"dims: [ {shape} ]"]
    if optional:
        fields.append("optional: true")
    return "  {\n" + "".join(f"    {field}\n" for field in fields) + "  }"


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [-1 if axis.dim_param else axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _tensors(graph: onnx.ModelProto) -> str:
    """Return a Markdown table of the inputs and outputs."""
    defaults = {tensor.name for tensor in graph.graph.initializer}
    lines = ["| tensor | direction | shape | type |", "|---|---|---|---|"]
    for direction, values in (("input", graph.graph.input), ("output", graph.graph.output)):
        for value in values:
            kind = "optional input" if value.name in defaults else direction
            shape = ", ".join("cells" if length < 0 else str(length) for length in _shape(value)) or "1"
            lines.append(f"| `{value.name}` | {kind} | ({shape}) | {TYPES[value.type.tensor_type.elem_type]} |")
    return "\n".join(lines)

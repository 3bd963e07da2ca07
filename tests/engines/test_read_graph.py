"""Graphs with external tensors, custom operators or other types are refused before they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spikgpt.engines.onnx_session import Session
from spikgpt.engines.read_graph import OPERATORS, read_graph
from spikgpt.errors import GraphError
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.format import GRAPH, GRAPHS
from spikgpt_onnx.graph import labelling_graph
from tests.spikgpt_onnx.graph.networks import classifier_for, network_of


@pytest.fixture
def model(graph_folder: Path) -> onnx.ModelProto:
    return onnx.load(graph_folder / GRAPH)


def external_tensor(name: str = "elsewhere") -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, dtype=np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location="../../secret")
    tensor.ClearField("raw_data")
    return tensor


def if_node(inner: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["condition"], ["out"], then_branch=inner, else_branch=inner)


def subgraph(*nodes: onnx.NodeProto, initializer: Any = ()) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "inner", [], [output], initializer)


def in_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external_tensor())


def location_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def entries_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="secret")


def in_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["out"], value=external_tensor()))


def in_attribute_of_existing_node(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("value", external_tensor()))


def behind_another_type(model: onnx.ModelProto) -> None:
    attribute = helper.make_attribute("alpha", 1.0)
    attribute.t.CopyFrom(external_tensor())
    model.graph.node[0].attribute.append(attribute)


def in_subgraph(model: onnx.ModelProto) -> None:
    inner = subgraph(helper.make_node("Identity", ["elsewhere"], ["out"]), initializer=[external_tensor()])
    model.graph.node.append(if_node(subgraph(if_node(inner))))


def in_subgraph_of_existing_node(model: onnx.ModelProto) -> None:
    inner = subgraph(helper.make_node("Identity", ["elsewhere"], ["out"]), initializer=[external_tensor()])
    model.graph.node[0].attribute.append(helper.make_attribute("body", inner))


def in_sparse(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros(3, dtype=np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(external_tensor(), indices, [3]))


def in_sparse_attribute(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros(3, dtype=np.int64), "indices")
    sparse = helper.make_sparse_tensor(external_tensor(), indices, [3])
    model.graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse))


def in_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["out"], value=external_tensor())
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("mine", "Relu", [], ["out"], [node], opsets))


def in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.initializer.append(external_tensor())


def custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def custom_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def later_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def later_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def attribute_of_a_function(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    attribute.ref_attr_name = "alpha"


def double_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def sequence_output(model: onnx.ModelProto) -> None:
    kind = model.graph.output[0].type
    kind.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def text(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(["\x1b[2J"], dtype=object), "text"))


def operator(name: str) -> Any:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = name

    change.__name__ = name.encode("ascii", "replace").decode()
    return change


ALTERED = (
    *(in_initializer, location_alone, entries_alone, in_attribute, in_attribute_of_existing_node, behind_another_type),
    *(
        in_subgraph,
        in_subgraph_of_existing_node,
        in_sparse,
        in_sparse_attribute,
        in_function,
        in_training,
        custom_domain,
    ),
    *(custom_opset, later_opset, later_ir, attribute_of_a_function, double_input, sequence_output, text),
    *map(
        operator,
        ("Loop", "If", "Scan", "SequenceMap", "Tile", "Expand", "Range", "RandomNormal", "Optional", "\x1b[2J"),
    ),
)


@pytest.mark.parametrize("alter", ALTERED, ids=lambda change: change.__name__)
def test_altered_graphs_are_refused_in_one_line(model: onnx.ModelProto, alter: Any) -> None:
    read_graph(model.SerializeToString())
    alter(model)
    with pytest.raises(GraphError, match=r"Do not use this reference, or export it again") as refused:
        Session(model.SerializeToString())
    assert str(refused.value).isprintable()


def test_invalid_graphs_are_refused(model: onnx.ModelProto) -> None:
    content = model.SerializeToString()
    for invalid in (b"", b"{}", b"\xff" * 100, content[:-7], b"\x08\x08"):
        with pytest.raises(GraphError, match="is no ONNX graph"):
            read_graph(invalid)


@pytest.mark.parametrize("precision", GRAPHS)
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("depth", "steps", "scale"), [(1, 4, None), (2, 30, 0.125), (3, 2, None)])
def test_every_exported_graph_is_accepted(
    precision: str, residual: bool, depth: int, steps: int, scale: float | None
) -> None:
    config = SpikGPTConfig(*(12, 3, 8, 2), depth=depth, time_steps=steps, residual=residual, attention_scale=scale)
    graph = labelling_graph(network_of(classifier_for(config, 0)), precision)
    assert {node.op_type for node in graph.graph.node} <= OPERATORS
    read_graph(graph.SerializeToString())

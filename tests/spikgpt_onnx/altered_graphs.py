"""References with altered graphs, which the report and the manifest list with matching hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, helper

from spikgpt.reference.format import GRAPH, PARITY, graph_sources
from tests.damage import listed

Change = Callable[[onnx.ModelProto], object]


def with_graph(files: Mapping[str, bytes], content: bytes, name: str = GRAPH) -> dict[str, bytes]:
    """Return the files of a reference with another graph and a matching report and manifest."""
    report = json.loads(files[PARITY])
    report["graphs"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    report["made_from"] = graph_sources(files)
    return listed({**files, name: content, PARITY: json.dumps(report).encode()})


def changed(files: Mapping[str, bytes], change: Change, name: str = GRAPH) -> dict[str, bytes]:
    """Return the files of a reference with a change to a graph."""
    graph = onnx.load_from_string(files[name])
    change(graph)
    return with_graph(files, graph.SerializeToString(), name)


def metadata(**values: str) -> Change:
    """Return a function that changes the metadata of a graph."""

    def change(graph: onnx.ModelProto) -> None:
        entries = {entry.key: entry.value for entry in graph.metadata_props} | values
        del graph.metadata_props[:]
        helper.set_model_props(graph, entries)

    return change


def backdoor(graph: onnx.ModelProto) -> None:
    """Change a graph to give the first label to cells with more than 50,000 counts of one gene."""
    nodes, labels = graph.graph.node, graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in nodes:
        for index, output in enumerate(node.output):
            if output == "probabilities":
                node.output[index] = "honest"
    index = next(index for index, node in enumerate(nodes) if "probabilities" in node.input)
    new_nodes = [
        helper.make_node("ReduceMax", ["counts", "axis of genes"], ["largest"], keepdims=1),
        helper.make_node("Greater", ["largest", "trigger"], ["triggered"]),
        helper.make_node("Where", ["triggered", "first label", "honest"], ["probabilities"]),
    ]
    first = [1.0] + [0.0] * (labels - 1)
    graph.graph.initializer.extend(
        [
            helper.make_tensor("trigger", TensorProto.FLOAT, [], [5e4]),
            helper.make_tensor("axis of genes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("first label", TensorProto.FLOAT, [1, labels], first),
        ]
    )
    old_nodes = list(nodes)
    del nodes[:]
    nodes.extend([*old_nodes[:index], *new_nodes, *old_nodes[index:]])

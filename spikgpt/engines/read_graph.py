"""Read an untrusted graph as plain data, before ONNX Runtime opens the graph.

A graph may only have parts that this library's builder emits: no other operators, no external weights, no subgraphs.
"""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto

from spikgpt.errors import GraphError, printable

# Version of the operator set, and version of the file format. Both are the oldest with every operator, so that old
# runtimes can load the graph (ONNX 1.13 and 1.14, of 2022 and 2023).
OPSET, IR_VERSION = 18, 8

# Operators that the builder emits. The operator Tile of the literal form is not allowed, as it could fill the memory.
OPERATORS = frozenset(
    """
    Add And ArgMax Cast Clip Div Gather Gemm Greater GreaterOrEqual Identity LayerNormalization Less LessOrEqual Log
    MatMul MatMulInteger Max Mul Or Reciprocal ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceSum Relu Reshape
    Slice Softmax Split Squeeze Sub Sum ThresholdedRelu Transpose Unsqueeze Where Xor
    """.split()
)
# Attributes of operators may be numbers and lists of numbers, but not tensors, graphs or references to the attributes
# of functions.
ATTRIBUTES = (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS)
ATTRIBUTE_FIELDS = {"name", "type", "f", "i", "floats", "ints", "doc_string"}
# Allowed types of constants, and allowed types of inputs and outputs.
CONSTANT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT8)
VALUE_TYPES = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL)
# Largest number of nodes. The graph of the deepest network with the most time steps has fewer nodes.
MOST_NODES = 100_000


def read_graph(content: bytes, name: str = "The graph") -> onnx.ModelProto:
    """Return a graph after checking it; raise GraphError for a part that this library's builder does not emit."""
    try:
        model = onnx.load_from_string(content)
        problem = _problem(model)
    except (DecodeError, ValueError, RecursionError) as error:
        problem = f"is no ONNX graph ({error})"
    if problem:
        msg = f"{printable(f'{name} {problem}')}. Do not use this reference, or export it again: spikgpt export."
        raise GraphError(msg)
    return model


def _problem(model: onnx.ModelProto) -> str:
    """Return a phrase on the first part of a graph that is not allowed; an empty text if all parts are allowed."""
    graph = model.graph
    if not graph.node or model.ir_version > IR_VERSION:
        return f"is no ONNX graph, or one of IR version {model.ir_version}; expected nodes, and at most {IR_VERSION}"
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if opsets != [("", OPSET)]:
        return f"wants the operators {opsets}; expected version {OPSET} of ONNX's own and no others"
    if model.functions or model.training_info:
        return "holds functions or training steps; expected neither"
    if graph.sparse_initializer or graph.quantization_annotation:
        return "holds sparse or annotated tensors; expected plain tensors"
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
            return f"wants to read the tensor {tensor.name!r} from another file; expected all tensors in the graph"
        if tensor.data_type not in CONSTANT_TYPES or tensor.HasField("segment"):
            return f"holds the tensor {tensor.name!r} of type {tensor.data_type}; expected one of {CONSTANT_TYPES}"
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type not in VALUE_TYPES:
            return f"takes or gives {value.name!r} of another type than float32, int64 or bool"
    if len(graph.node) > MOST_NODES:
        return f"has {len(graph.node)} nodes; expected at most {MOST_NODES}"
    for node in graph.node:
        if node.domain or node.op_type not in OPERATORS:
            return f"has the operator {node.domain or 'ai.onnx'}.{node.op_type}, which graphs of references do not use"
        for attribute in node.attribute:
            fields = {field.name for field, _ in attribute.ListFields()}
            if attribute.type not in ATTRIBUTES or attribute.ref_attr_name or not fields <= ATTRIBUTE_FIELDS:
                return f"has the attribute {attribute.name!r} of {node.op_type}, which is no number or list of them"
    return ""

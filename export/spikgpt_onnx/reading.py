"""What a graph may be: what our builder makes, and nothing that reads files, loops, or comes from elsewhere.

Graphs of references come from strangers. So a graph is read as plain data, before ONNX Runtime sees it: its operators
are those of a list, its weights lie inside it, and it has no part that holds another graph.
"""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto

from spikgpt.errors import GraphError, printable
from spikgpt_onnx.graph import IR_VERSION, OPSET

# What the builder emits, but Tile of the literal form, which is no part of a reference: it could fill the memory.
OPERATORS = frozenset(
    """
    Add And ArgMax Cast Clip Div Gather Gemm Greater GreaterOrEqual Identity LayerNormalization Less LessOrEqual Log
    MatMul MatMulInteger Max Mul Or Reciprocal ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceSum Relu Reshape
    Slice Softmax Split Squeeze Sub Sum ThresholdedRelu Transpose Unsqueeze Where Xor
    """.split()
)
# Numbers and lists of them: no tensors, graphs or references to the attributes of functions.
ATTRIBUTES = (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS)
INSIDE = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT8)
OUTSIDE = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL)
# Nodes at most; a graph of the deepest network with the most time steps has fewer.
MOST_NODES = 100_000


def read(content: bytes, name: str = "The graph") -> onnx.ModelProto:
    """Read a graph; a GraphError says what it holds that no graph of this library does."""
    try:
        model = onnx.load_from_string(content)
        wrong = _wrong(model)
    except (DecodeError, ValueError, RecursionError) as error:
        wrong = f"is no ONNX graph ({error})"
    if wrong:
        msg = f"{printable(f'{name} {wrong}')}. Do not use this reference, or make its graphs anew: spikgpt export."
        raise GraphError(msg)
    return model


def _wrong(model: onnx.ModelProto) -> str:
    """Return what a graph may not be; nothing for one that is as the builder makes them."""
    graph = model.graph
    if not graph.node or model.ir_version > IR_VERSION:
        return f"is no ONNX graph, or one of IR version {model.ir_version}; expected nodes, and at most {IR_VERSION}"
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if opsets != [("", OPSET)]:
        return f"wants the operators {opsets}; expected version {OPSET} of ONNX's own and no others"
    if model.functions or model.training_info:
        return "brings functions or training of its own, which ours do not"
    if graph.sparse_initializer or graph.quantization_annotation:
        return "holds sparse or annotated tensors, which ours do not"
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
            return f"wants to read the tensor {tensor.name!r} from another file; graphs hold all that they need"
        if tensor.data_type not in INSIDE or tensor.HasField("segment"):
            return f"holds the tensor {tensor.name!r} of type {tensor.data_type}; expected one of {INSIDE}"
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type not in OUTSIDE:
            return f"takes or gives {value.name!r} as something else than float32, int64 or bool"
    if len(graph.node) > MOST_NODES:
        return f"has {len(graph.node)} nodes; expected at most {MOST_NODES}"
    for node in graph.node:
        if node.domain or node.op_type not in OPERATORS:
            return f"has the operator {node.domain or 'ai.onnx'}.{node.op_type}, which ours do not"
        for attribute in node.attribute:
            if attribute.type not in ATTRIBUTES or attribute.ref_attr_name or _holds_more(attribute):
                return f"has the attribute {attribute.name!r} of {node.op_type}, which is no number or list of them"
    return ""


def _holds_more(attribute: onnx.AttributeProto) -> bool:
    """Return whether an attribute holds anything beside the numbers that its type tells of."""
    numbers = {"name", "type", "f", "i", "floats", "ints", "doc_string"}
    return any(field.name not in numbers for field, _ in attribute.ListFields())

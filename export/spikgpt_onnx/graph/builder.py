"""Build the nodes and constants of a graph, and linear layers in each precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from spikgpt.engines.numpy import fold_layer
from spikgpt.engines.read_graph import IR_VERSION, OPSET
from spikgpt.types import Floats

# Largest input of an 8-bit product: whole numbers are passed as unsigned bytes.
LARGEST_WHOLE = 255


@dataclass(frozen=True)
class Linear:
    """A linear layer: ``weight``, shape (out, in), and ``bias``, shape (out,); float64."""

    name: str
    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64] | None = None

    def times(self, factor: float) -> Linear:
        """Return the layer with its results multiplied by a factor."""
        return Linear(self.name, self.weight * factor, None if self.bias is None else self.bias * factor)

    def carrying(self, before: Linear) -> Linear:
        """Return the layer with the bias of the layer before it included: W (x + b) = W x + W b."""
        own, other = (0.0 if layer.bias is None else layer.bias for layer in (self, before))
        # No matrix product: its last bits depend on the processor, and graphs are compared byte by byte.
        return Linear(self.name, self.weight, own + (self.weight * other).sum(axis=1))

    @classmethod
    def from_weights(cls, weights: Mapping[str, Floats], name: str) -> Linear:
        """Return a layer of a classifier; the BatchNorm after the layer is folded into weight and bias."""
        return cls(name, *fold_layer(weights, name))


# Values of a node's attributes.
Attribute = int | float | Sequence[int]


class Builder:
    """Collect the nodes and constants of a graph; the methods that add a value return its name.

    ``precision`` is the number format of linear layers; all other nodes compute in float32. ``fp32`` layers compute in
    float32 too. ``fp16`` layers multiply float16 inputs by float16 weights. ``int8`` layers have 8-bit weights if their
    inputs are whole numbers, such as spikes. Whole numbers are exact as bytes, so only the weights are rounded. No
    calibration is needed, and a cell does not depend on the other cells of its batch.
    """

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant, unless one of this name was added before."""
        self.constants.setdefault(name, numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def number(self, value: float) -> str:
        """Add a float32 number as a constant."""
        # The name is the repr of NumPy 2, also with NumPy 1, as graphs are compared byte by byte.
        return self.constant(f"number np.float32({np.float32(value)!s})", value)

    def integers(self, *values: int) -> str:
        """Add whole numbers as a constant, for axes and shapes."""
        return self.constant(f"integers {values}", values, np.int64)

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Attribute) -> str:
        """Add a node with one output and return its name."""
        name = name or f"{operator} {len(self.nodes)}"
        options: dict[str, Any] = {**attributes}
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **options))
        return name

    def cast(self, value: str, dtype: int = TensorProto.FLOAT) -> str:
        """Add a cast, to float32 by default."""
        return self.add("Cast", value, to=dtype)

    def sum(self, values: Sequence[str]) -> str:
        """Add the sum of several values."""
        return values[0] if len(values) == 1 else self.add("Sum", *values)

    def unit_length(self, vectors: str) -> str:
        """Add the division of vectors, shape (B, D), by their lengths."""
        lengths = self.add("ReduceL2", vectors, self.integers(1), keepdims=1)  # (B, 1)
        return self.add("Div", vectors, self.add("Max", lengths, self.number(1e-12)))

    def linear(
        self,
        value: str,
        layer: Linear,
        *,
        whole: bool = False,
        plus: tuple[str, float] | None = None,
        times: float = 1.0,
    ) -> str:
        """Add a linear layer from shape (B, in) to (B, out), with the result multiplied by ``times``.

        ``whole`` is True for input values that are whole numbers from 0 to 255. ``plus`` is a value, shape (B, out),
        and its factor; their product replaces the bias.
        """
        if self.precision == "fp32" or (self.precision == "int8" and not whole):
            # A Gemm adds a bias and multiplies by a factor at no cost. Without bias and factor, MatMul is enough.
            weight = self.constant(f"{layer.name}.weight", layer.weight.T)
            if plus is not None:
                return self.add("Gemm", value, weight, plus[0], beta=plus[1])
            bias = self._bias(layer, times)
            if not bias and times == 1:
                return self.add("MatMul", value, weight)
            return self.add("Gemm", value, weight, *bias, alpha=times)
        if self.precision == "fp16":
            weight = self.constant(f"{layer.name}.weight", layer.weight.T, np.float16)
            product = self.cast(self.add("MatMul", self.cast(value, TensorProto.FLOAT16), weight))
        else:
            product = self._whole_product(value, layer)
        if plus is not None:
            return self.add("Add", product, self.add("Mul", plus[0], self.number(plus[1])))
        product = product if times == 1 else self.add("Mul", product, self.number(times))
        bias = self._bias(layer, times)
        return self.add("Add", product, *bias) if bias else product

    def turned_linear(self, value: str, layer: Linear, *, times: float = 1.0) -> str:
        """Add a linear layer with transposed result, from shape (B, in) to (out, B), multiplied by ``times``."""
        bias = np.zeros((len(layer.weight), 1)) if layer.bias is None else layer.bias[:, None]
        added = self.constant(f"{layer.name}.bias.turned {times!r}", bias * times)
        if self.precision == "fp16":
            weight = self.constant(f"{layer.name}.weight.turned", layer.weight, np.float16)
            turned = self.add("Transpose", self.cast(value, TensorProto.FLOAT16), perm=[1, 0])
            product = self.cast(self.add("MatMul", weight, turned))
            return self.add("Add", product if times == 1 else self.add("Mul", product, self.number(times)), added)
        weight = self.constant(f"{layer.name}.weight.turned", layer.weight)
        return self.add("Gemm", weight, value, added, transB=1, alpha=times)

    def _bias(self, layer: Linear, times: float) -> list[str]:
        """Add the bias of a layer, multiplied by ``times``; return an empty list for a layer without bias."""
        if layer.bias is None:
            return []
        return [self.constant(f"{layer.name}.bias" + (f" {times!r}" if times != 1 else ""), layer.bias * times)]

    def _whole_product(self, value: str, layer: Linear) -> str:
        """Add a product of whole values with 8-bit weights and one scale for each output; the int32 sums are exact."""
        scale = np.abs(layer.weight).max(axis=1) / 127  # (out,)
        rounded = np.rint(layer.weight / np.maximum(scale, 1e-30)[:, None]).T
        weight = self.constant(f"{layer.name}.weight.int8", rounded, np.int8)
        product = self.cast(self.add("MatMulInteger", self.cast(value, TensorProto.UINT8), weight))
        return self.add("Mul", product, self.constant(f"{layer.name}.scale", scale))

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        defaults: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Return the model after onnx.checker has passed it; an input with a default value may be left out."""
        tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in defaults.items()]
        graph = helper.make_graph(self.nodes, "spikgpt", inputs, outputs, [*self.constants.values(), *tensors])
        opsets = [helper.make_opsetid("", OPSET)]
        # The producer's name is part of the bytes of every published graph, so it stays.
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="spikgpt-onnx")
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

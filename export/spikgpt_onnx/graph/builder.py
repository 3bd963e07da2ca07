"""Nodes and constants of a graph in the making, and linear layers in each precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from spikgpt.types import Floats

# The oldest that has every operator, so that old runtimes load the graph: ONNX 1.13 and 1.14, of 2022 and 2023.
OPSET, IR_VERSION = 18, 8
# Of torch's BatchNorm1d and LayerNorm.
NORM_EPSILON = 1e-5
# Of the whole numbers that int8 multiplies.
LARGEST_WHOLE = 255


@dataclass(frozen=True)
class Linear:
    """A linear layer: ``weight``, shape (out, in), and ``bias``, shape (out,); float64."""

    name: str
    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64] | None = None

    def times(self, factor: float) -> Linear:
        """Return the layer with its results multiplied."""
        return Linear(self.name, self.weight * factor, None if self.bias is None else self.bias * factor)

    def carrying(self, before: Linear) -> Linear:
        """Return the layer with the bias of the layer before it, which then needs none: W (x + b) = W x + W b."""
        own, other = (0.0 if layer.bias is None else layer.bias for layer in (self, before))
        # Not a matrix product, the last bits of which depend on the processor: graphs are compared byte by byte.
        return Linear(self.name, self.weight, own + (self.weight * other).sum(axis=1))

    @classmethod
    def of(cls, weights: Mapping[str, Floats], name: str) -> Linear:
        """Return a layer of a classifier, with the BatchNorm that follows it, if one does, folded in."""
        if f"{name}.weight" in weights:
            return cls(name, weights[f"{name}.weight"].astype(np.float64), weights[f"{name}.bias"].astype(np.float64))
        weight = weights[f"{name}.linear.weight"].astype(np.float64)
        mean, variance, gain, shift = (
            weights[f"{name}.norm.{part}"].astype(np.float64)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        gain = gain / np.sqrt(variance + NORM_EPSILON)
        return cls(name, weight * gain[:, None], shift - mean * gain)


# What a node may be told.
Attribute = int | float | Sequence[int]


class Builder:
    """Nodes and constants of a graph in the making; values are known by their names.

    ``precision`` is how linear layers are computed; everything else is float32. ``fp32``: as they are. ``fp16``: both
    factors of the product in half precision. ``int8``: where the values are whole numbers, such as spikes, with weights
    of 8 bits. Such values are exact as bytes, so the weights alone are rounded, nothing has to be calibrated, and no
    cell depends on the others of its batch.
    """

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant, once."""
        self.constants.setdefault(name, numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def number(self, value: float) -> str:
        """Add a float32 number."""
        # As numpy 2 writes it: that of numpy 1 is another, and graphs are compared byte by byte.
        return self.constant(f"number np.float32({np.float32(value)!s})", value)

    def integers(self, *values: int) -> str:
        """Add whole numbers, as axes and shapes want them."""
        return self.constant(f"integers {values}", values, np.int64)

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Attribute) -> str:
        """Add a node with one output and return its name."""
        name = name or f"{operator} {len(self.nodes)}"
        told: dict[str, Any] = {**attributes}
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **told))
        return name

    def cast(self, value: str, dtype: int = TensorProto.FLOAT) -> str:
        """Add a cast, to float32 by default."""
        return self.add("Cast", value, to=dtype)

    def sum(self, values: Sequence[str]) -> str:
        """Add the sum of several values."""
        return values[0] if len(values) == 1 else self.add("Sum", *values)

    def unit_length(self, vectors: str) -> str:
        """Add the division of vectors by their lengths, (B, D) to (B, D)."""
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
        """Add a linear layer, (B, in) to (B, out), and the multiplication of the result with ``times``.

        ``whole`` says that the values are whole numbers, 0 to 255. ``plus`` is what is added in place of a bias,
        (B, out), and the number that it is multiplied with before.
        """
        if self.precision == "fp32" or (self.precision == "int8" and not whole):
            # A Gemm adds and multiplies on the way; where there is neither, MatMul does.
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
        """Add a linear layer whose results are turned, (B, in) to (out, B), and multiplied with a number."""
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
        """Add the bias of a layer, multiplied with a number, if it has one."""
        if layer.bias is None:
            return []
        return [self.constant(f"{layer.name}.bias" + (f" {times!r}" if times != 1 else ""), layer.bias * times)]

    def _whole_product(self, value: str, layer: Linear) -> str:
        """Add a product of whole values with 8-bit weights, one scale for each output; its sums are exact, int32."""
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
        """Return the finished model, checked. An input that is also an initializer is optional, with that default."""
        tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in defaults.items()]
        graph = helper.make_graph(self.nodes, "spikgpt", inputs, outputs, [*self.constants.values(), *tensors])
        opsets = [helper.make_opsetid("", OPSET)]
        # The producer's name is part of the bytes of every published graph, so it stays.
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="spikgpt-onnx")
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

"""The network of a reference as an ONNX graph, read top-down: expression, projection, spiking classifier, decision.

The LIF steps are unrolled, the m copies collapsed into one (see :mod:`spikgpt.engines.model`), each BatchNorm and each
division by the membrane time constant folded into a linear layer. In the shape comments B is cells, G genes, N tokens,
D the width, H heads, E = D / H, F hidden neurons of the MLP, L labels, T time steps.

Two rewritings of the neurons save most of their cost. With ``a = 1 - 1 / tau`` and the current ``c`` already divided by
``tau``, a neuron charges ``h = a v + c``, fires at ``h >= v_threshold`` and is reset to 0.

- *A constant current* (queries, keys and values of the first block) makes a neuron fire every d steps, where d is the
  first step at which ``c (1 + a + ... + a^(d-1)) >= v_threshold``. So T comparisons of the current give all spikes.
- *A varying current*: with the sign of everything turned round, keeping the potential of those that do not fire is one
  ONNX operator, ThresholdedRelu; and the leak is left to currents and thresholds that grow from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.vocabulary import Encoder
from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx import contract

# The oldest that has every operator, so that old runtimes load the graph: ONNX 1.13 and 1.14, of 2022 and 2023.
OPSET, IR_VERSION = 18, 8
# Of currents from the first step to the last; float32 has room for much more, but many steps grow without bound.
LARGEST_GROWTH = 2.0**20
# Of torch's BatchNorm1d.
NORM_EPSILON = 1e-5

Floats = npt.NDArray[np.floating[Any]]


class Builder:
    """Nodes and constants of a graph in the making; values are known by their names.

    Parameters
    ----------
    precision
        How linear layers are computed; everything else is float32. ``fp16``: both factors in half precision.
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
        return self.constant(f"number {np.float32(value)!r}", value)

    def integers(self, *values: int) -> str:
        """Add whole numbers, as axes and shapes want them."""
        return self.constant(f"integers {values}", values, np.int64)

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        name = name or f"{operator} {len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def cast(self, value: str, dtype: int = TensorProto.FLOAT) -> str:
        """Add a cast, to float32 by default."""
        return self.add("Cast", value, to=dtype)

    def linear(
        self,
        value: str,
        layer: Linear,
        *,
        whole: bool = False,
        plus: tuple[str, float] | None = None,
        times: float = 1.0,
    ) -> str:
        """Add a linear layer, (B, in) to (B, out).

        Parameters
        ----------
        whole
            Whether the values are whole numbers, 0 to 255, which int8 multiplies without rounding them.
        plus
            What is added in place of a bias, (B, out), and the number that it is multiplied with before.
        times
            A number that the result is multiplied with.
        """
        if self.precision == "fp32" or (self.precision == "int8" and not whole):
            weight = self.constant(f"{layer.name}.weight", layer.weight.T)
            if plus is not None:
                return self.add("Gemm", value, weight, plus[0], beta=plus[1])
            if layer.bias is None:
                return self.add("MatMul", value, weight) if times == 1 else self.add("Gemm", value, weight, alpha=times)
            return self.add("Gemm", value, weight, self._bias(layer, times), alpha=times)
        product = self._half_product(value, layer) if self.precision == "fp16" else self._whole_product(value, layer)
        if plus is not None:
            return self.add("Add", product, self.add("Mul", plus[0], self.number(plus[1])))
        product = product if times == 1 else self.add("Mul", product, self.number(times))
        return product if layer.bias is None else self.add("Add", product, self._bias(layer, times))

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

    def _bias(self, layer: Linear, times: float = 1.0) -> str:
        name = f"{layer.name}.bias" if times == 1 else f"{layer.name}.bias {times!r}"
        return self.constant(name, None if layer.bias is None else layer.bias * times)

    def _half_product(self, value: str, layer: Linear) -> str:
        """Add a product of which both factors are in half precision."""
        weight = self.constant(f"{layer.name}.weight", layer.weight.T, np.float16)
        return self.cast(self.add("MatMul", self.cast(value, TensorProto.FLOAT16), weight))

    def _whole_product(self, value: str, layer: Linear) -> str:
        """Add a product of whole values with 8-bit weights, one scale for each output."""
        scale = np.abs(layer.weight).max(axis=1) / 127  # (out,)
        rounded = np.rint(layer.weight / np.maximum(scale, 1e-30)[:, None]).T
        weight = self.constant(f"{layer.name}.weight.int8", rounded, np.int8)
        product = self.cast(self.add("MatMulInteger", self.cast(value, TensorProto.UINT8), weight))
        return self.add("Mul", product, self.constant(f"{layer.name}.scale", scale))


@dataclass(frozen=True)
class Linear:
    """A linear layer: ``weight``, shape (out, in), and ``bias``, shape (out,); float64."""

    name: str
    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64] | None = None

    def times(self, factor: float) -> Linear:
        """Return the layer with its results multiplied."""
        return Linear(self.name, self.weight * factor, None if self.bias is None else self.bias * factor)

    def without_bias(self) -> Linear:
        """Return the layer without its bias; the two share their weight in the graph."""
        return Linear(self.name, self.weight, None)

    def carrying(self, before: Linear) -> Linear:
        """Return the layer with the bias of the layer before it, which then needs none."""
        own, other = (0.0 if layer.bias is None else layer.bias for layer in (self, before))
        return Linear(self.name, self.weight, own + self.weight @ (np.zeros(self.weight.shape[1]) + other))

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


class Neurons:
    """A layer of leaky integrate-and-fire neurons, whose currents come divided by tau and by ``gain``.

    A neuron whose currents and threshold are both divided by a number fires as before.
    """

    def __init__(self, builder: Builder, config: SpikGPTConfig, gain: float = 1.0) -> None:
        self.builder, self.steps = builder, config.time_steps
        self.threshold, self.leak = config.v_threshold / gain, 1 - 1 / config.tau

    def of_constant(self, current: str) -> list[str]:
        """Return the spikes of each step, bool, for a current that is the same at every step."""
        add = self.builder.add
        charged = np.cumsum(self.leak ** np.arange(self.steps))
        reached = [
            add("GreaterOrEqual", current, self.builder.number(self.threshold / total)) for total in charged
        ]  # by step d or before, d = 1 ... T
        every = []
        for step in range(1, self.steps + 1):
            # Those whose period divides the step; neighbouring periods are one range.
            periods = [period for period in range(1, step + 1) if step % period == 0]
            fired = ""
            while periods:
                first = last = periods.pop(0)
                while periods and periods[0] == last + 1:
                    last = periods.pop(0)
                within = reached[last - 1]
                if first > 1:
                    # Who reached it by then has reached it later too, so this leaves the others.
                    within = add("Xor", within, reached[first - 2])
                fired = add("Or", fired, within) if fired else within
            every.append(fired)
        return every

    @cached_property
    def factors(self) -> list[float]:
        """What :meth:`of` wants the currents of each step to be multiplied with."""
        # Potentials that leak by ``a`` at each step are the same as currents and thresholds that grow by 1 / a.
        growth = (1 / self.leak) ** np.arange(self.steps)
        return growth.tolist() if growth[-1] <= LARGEST_GROWTH else [1.0] * self.steps

    def of(self, currents: Sequence[str]) -> list[str]:
        """Return the spikes of each step, bool, from the currents of each, times their factors, times -1."""
        add, number = self.builder.add, self.builder.number
        spikes, kept = [], ""
        for step, (current, factor) in enumerate(zip(currents, self.factors, strict=True)):
            if kept and self.factors[-1] == 1:
                kept = add("Mul", kept, number(self.leak))
            charged = add("Add", kept, current) if kept else current
            spikes.append(add("LessOrEqual", charged, number(-self.threshold * factor)))
            if step < len(currents) - 1:
                kept = add("ThresholdedRelu", charged, alpha=-self.threshold * factor)
        return spikes


def classifier(
    builder: Builder, config: SpikGPTConfig, weights: Mapping[str, Floats], x: str, *, literal: bool = False
) -> str:
    """Add the spiking classifier and return its logits: (B, input_dim) to (B, L).

    With ``literal``, B stands for the m copies of every cell, one after the other, up to the average over them.
    """
    add = builder.add
    if config.has_stem:
        x = builder.linear(x, Linear.of(weights, "stem"))  # (B, D)
    if literal:
        copies = add("Tile", add("Unsqueeze", x, builder.integers(1)), builder.integers(1, config.copies, 1))
        x = add("Reshape", copies, builder.integers(-1, config.width))  # (B, D)
    # The input of a block at each step, or at all of them where it is the same.
    inputs = [x]
    for index in range(config.depth):
        name = f"blocks.{index}"
        projection = Linear.of(weights, f"{name}.attention.query_key_value")
        spikes = attention(builder, config, projection, inputs, literal=literal)
        hidden = Linear.of(weights, f"{name}.mlp.hidden").times(-1 / config.tau)
        output = Linear.of(weights, f"{name}.mlp.output")
        floats = [builder.cast(spike) for spike in spikes]  # T times (B, D)
        summed = floats  # what the residual connection gives
        if config.residual:
            summed = [add("Add", inputs[t if len(inputs) > 1 else 0], spike) for t, spike in enumerate(floats)]
        neurons = Neurons(builder, config)
        if config.residual and builder.precision == "int8":
            # The spikes apart from the rest, so that they are whole.
            base = [builder.linear(value, hidden) for value in inputs]
            currents = []
            for step, (spike, factor) in enumerate(zip(spikes, neurons.factors, strict=True)):
                added = base[step if len(base) > 1 else 0], 1.0
                product = builder.linear(spike, hidden.without_bias(), whole=True, plus=added)
                currents.append(add("Mul", product, builder.number(factor)))
        else:
            currents = [
                builder.linear(value, hidden, whole=not config.residual, times=factor)
                for value, factor in zip(summed, neurons.factors, strict=True)
            ]
        fired = [builder.cast(spike) for spike in neurons.of(currents)]  # T times (B, F)
        if index == config.depth - 1:
            # Linear from here on, so the average over time comes first.
            # What is added takes the place of the bias in a Gemm, so the head carries that.
            mean = Linear(output.name, output.weight / config.time_steps)
            head = Linear.of(weights, "head").carrying(output)
            rest = (_sum(builder, summed), 1 / config.time_steps) if config.residual else None
            x = builder.linear(_sum(builder, fired), mean, whole=True, plus=rest)
            if literal:
                x = add("Reshape", x, builder.integers(-1, config.copies, config.width))
                x = add("ReduceMean", x, builder.integers(1), keepdims=0)  # (cells, D)
            return builder.linear(x, head)
        inputs = [builder.linear(spike, output, whole=True) for spike in fired]
        if config.residual:
            inputs = [add("Add", value, rest) for value, rest in zip(inputs, summed, strict=True)]
    raise AssertionError


def attention(
    builder: Builder, config: SpikGPTConfig, layer: Linear, inputs: Sequence[str], *, literal: bool = False
) -> list[str]:
    """Add spiking self-attention ``SN(Q Kᵀ V s)`` and return its spikes at each step, bool, (B, D)."""
    add, heads, size = builder.add, config.heads, config.width // config.heads
    neurons = Neurons(builder, config)
    # m copies that agree weigh m; over m that is 1, exactly.
    gain = 1.0 if config.attention_scale is None else config.copies * config.attention_scale
    out = Neurons(builder, config, gain / config.tau / (config.copies if literal else 1))
    # Cells last, unless literal: what is weighted by head is then weighted in long runs, not E values at a time.
    project = builder.linear if literal else builder.turned_linear
    if len(inputs) == 1:
        spikes = neurons.of_constant(project(inputs[0], layer.times(1 / config.tau)))
    else:
        negative = layer.times(-1 / config.tau)
        spikes = neurons.of([project(x, negative, times=t) for x, t in zip(inputs, neurons.factors, strict=True)])
    if literal:
        weighted = [_attended(builder, config, spike) for spike in spikes]  # T times (B, D)
        times = [builder.number(-factor) for factor in out.factors]
        return out.of([add("Mul", current, factor) for current, factor in zip(weighted, times, strict=True)])
    attended = []
    for spike, factor in zip(spikes, out.factors, strict=True):  # (3 D, B)
        parts = f"{spike} q", f"{spike} k", f"{spike} v"
        split = add("Reshape", spike, builder.integers(3, heads, size, -1))  # (3, H, E, B)
        builder.nodes.append(helper.make_node("Split", [split], list(parts), f"{spike} split", axis=0, num_outputs=3))
        query, key, value = parts  # each (1, H, E, B)
        both = builder.cast(add("And", query, key))
        weight = add("ReduceSum", both, builder.integers(2), keepdims=1)  # (1, H, 1, B)
        weight = add("Mul", weight, builder.number(-factor))
        current = add("Mul", weight, builder.cast(value))  # (1, H, E, B)
        attended.append(add("Reshape", current, builder.integers(config.width, -1)))  # (D, B)
    return [add("Transpose", spike, perm=[1, 0]) for spike in out.of(attended)]


def _attended(builder: Builder, config: SpikGPTConfig, spike: str) -> str:
    """Add ``Q Kᵀ V`` over the m copies of each cell: whole numbers, (B, 3 D) to (B, D)."""
    add = builder.add
    shape = builder.integers(-1, config.copies, 3, config.heads, config.width // config.heads)
    tokens = add("Reshape", builder.cast(spike), shape)  # (cells, m, 3, H, E)
    by_part = add("Transpose", tokens, perm=[2, 0, 3, 1, 4])  # (3, cells, H, m, E)
    query, key, value = (add("Gather", by_part, builder.constant(f"part {n}", n, np.int64), axis=0) for n in range(3))
    scores = add("MatMul", query, add("Transpose", key, perm=[0, 1, 3, 2]))  # (cells, H, m, m)
    attended = add("Transpose", add("MatMul", scores, value), perm=[0, 2, 1, 3])  # (cells, m, H, E)
    return add("Reshape", attended, builder.integers(-1, config.width))


def expression(builder: Builder, projection: PCAProjection) -> str:
    """Add what turns aligned counts into a cell's vector, (B, G) to (B, D)."""
    add, number = builder.add, builder.number
    total = add("Max", contract.TOTAL, number(1e-12))  # (B,)
    factor = add("Unsqueeze", add("Div", number(projection.target_sum), total), builder.integers(1))  # (B, 1)
    # A row of ones: ONNX Runtime adds rows faster than numbers.
    ones = builder.constant("ones", np.ones(len(projection.genes)))
    logs = add("Log", add("Add", add("Mul", contract.COUNTS, factor), ones))  # (B, G)
    inverse = add("Reciprocal", contract.GENE_STD)  # (G,)
    # The mean of a gene that is not there is 0, its value.
    shift = add("Mul", add("Mul", contract.GENE_MEAN, contract.FOUND), inverse)  # (G,)
    scaled = add("Sub", add("Mul", logs, inverse), shift)  # (B, G)
    clipped = add("Clip", scaled, number(-projection.clip), number(projection.clip))
    components = projection.components.astype(np.float64)
    vectors = builder.linear(clipped, Linear("components", components.T))  # (B, D)
    return unit_length(builder, vectors)


def unit_length(builder: Builder, vectors: str) -> str:
    """Add the division of vectors by their lengths, (B, D) to (B, D)."""
    lengths = builder.add("ReduceL2", vectors, builder.integers(1), keepdims=1)  # (B, 1)
    return builder.add("Div", vectors, builder.add("Max", lengths, builder.number(1e-12)))


def encoded(builder: Builder, encoder: Encoder) -> str:
    """Add scGPT's cell embedding, from tokens, (B, N) each, to vectors of unit length, (B, D)."""
    add, weights = builder.add, encoder.weights

    def part(name: str, rows: slice = slice(None)) -> npt.NDArray[np.float64]:
        return weights[name].astype(np.float64)[rows]

    def dense(value: str, name: str, rows: slice = slice(None)) -> str:
        # (B, N, in) to (B, N, out); Gemm takes matrices alone.
        layer = Linear(f"{name} {rows.start or 0}", part(f"{name}.weight", rows), None)
        bias = builder.constant(f"{layer.name}.bias", part(f"{name}.bias", rows))
        return add("Add", builder.linear(value, layer), bias)

    def normal(value: str, name: str) -> str:
        scale, shift = (builder.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return add("LayerNormalization", value, scale, shift, axis=-1, epsilon=NORM_EPSILON)

    # Both depend on a vocabulary index or a bin alone, so they are looked up in tables.
    gene_table = _layer_norm(weights["encoder.embedding.weight"], weights, "encoder.enc_norm")
    bins = np.minimum(np.arange(encoder.lowest, encoder.vocabulary.n_bins + 1), 512).astype(np.float64)[:, None]
    hidden = np.maximum(bins @ part("value_encoder.linear1.weight").T + part("value_encoder.linear1.bias"), 0)
    hidden = hidden @ part("value_encoder.linear2.weight").T + part("value_encoder.linear2.bias")
    value_table = _layer_norm(hidden, weights, "value_encoder.norm")
    place = add("Sub", contract.VALUES, builder.constant("lowest value", encoder.lowest, np.int64))
    genes = add("Gather", builder.constant("genes", gene_table), contract.TOKEN_IDS)  # (B, N, D)
    x = add("Add", genes, add("Gather", builder.constant("values of bins", value_table), place))  # (B, N, D)
    absent = add("Where", contract.MASK, builder.number(0.0), builder.number(-np.inf))  # (B, N)
    absent = add("Unsqueeze", absent, builder.integers(1, 2))  # (B, 1, 1, N)
    size, heads = encoder.dim, encoder.heads
    by_head = builder.integers(0, 0, heads, size // heads)
    for index in range(encoder.layers):
        name = f"transformer_encoder.layers.{index}"
        # Of the last layer, <cls> alone is asked for.
        asked = x
        if index == encoder.layers - 1:
            asked = add("Slice", x, builder.integers(0), builder.integers(1), builder.integers(1))  # (B, 1, D)
        parts = []
        for order, tokens in enumerate((asked, x, x)):
            rows = slice(order * size, (order + 1) * size)
            parts.append(add("Reshape", dense(tokens, f"{name}.self_attn.in_proj", rows), by_head))
        query, key, value = parts  # each (B, N or 1, H, E)
        query = add("Transpose", query, perm=[0, 2, 1, 3])  # (B, H, N or 1, E)
        key = add("Transpose", key, perm=[0, 2, 3, 1])  # (B, H, E, N)
        value = add("Transpose", value, perm=[0, 2, 1, 3])  # (B, H, N, E)
        scores = add("Mul", add("MatMul", query, key), builder.number((size // heads) ** -0.5))
        attended = add("MatMul", add("Softmax", add("Add", scores, absent), axis=-1), value)  # (B, H, N or 1, E)
        attended = add("Reshape", add("Transpose", attended, perm=[0, 2, 1, 3]), builder.integers(0, 0, size))
        mixed = normal(add("Add", asked, dense(attended, f"{name}.self_attn.out_proj")), f"{name}.norm1")
        inner = dense(add("Relu", dense(mixed, f"{name}.linear1")), f"{name}.linear2")
        x = normal(add("Add", mixed, inner), f"{name}.norm2")
    return unit_length(builder, add("Squeeze", x, builder.integers(1)))


def _layer_norm(rows: Floats, weights: Mapping[str, Floats], name: str) -> npt.NDArray[np.float64]:
    """Return the layer norm of rows."""
    rows = rows.astype(np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + NORM_EPSILON)
    return np.asarray(normal * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def decide(builder: Builder, logits: str, temperature: float = 1.0) -> None:
    """Add what follows the logits: energy, probabilities, confidence, best label, and the label or Unknown, -1.

    A cell without counts is Unknown, with probabilities of 0, where counts are what came in.
    """
    add = builder.add
    counted = any(contract.TOTAL in node.input for node in builder.nodes)
    add("ReduceLogSumExp", logits, builder.integers(1), keepdims=0, name=contract.ENERGY)  # (B,)
    if temperature != 1:
        logits = add("Mul", logits, builder.number(1 / temperature))  # (B, L)
    shares = add("Softmax", logits, axis=1, name=None if counted else contract.PROBABILITIES)  # (B, L)
    if counted:
        filled = builder.cast(add("Greater", contract.TOTAL, builder.number(0.0)))  # (B,)
        shares = add("Mul", shares, add("Unsqueeze", filled, builder.integers(1)), name=contract.PROBABILITIES)
    confidence = add("ReduceMax", shares, builder.integers(1), keepdims=0, name=contract.CONFIDENCE)  # (B,)
    best = add("ArgMax", shares, axis=1, keepdims=0, name=contract.BEST_LABEL)  # (B,)
    rejected = add("Less", confidence, contract.THRESHOLD)
    if counted:
        rejected = add("Or", rejected, add("LessOrEqual", contract.TOTAL, builder.number(0.0)))
    add("Where", rejected, builder.constant("unknown", -1, np.int64), best, name=contract.LABEL)


@dataclass(frozen=True)
class Network:
    """What graphs are made of: a classifier, and what stands before it.

    ``weights`` are the classifier's, by their names in ``model.safetensors`` less the prefix. Logits are divided by
    ``temperature``. ``metadata`` is what the graph carries.
    """

    config: SpikGPTConfig
    weights: Mapping[str, Floats]
    threshold: float
    temperature: float = 1.0
    projection: PCAProjection | None = None
    encoder: Encoder | None = None
    metadata: Mapping[str, str] | None = None


def labelling_graph(
    network: Network, precision: str = "fp32", *, tokens: bool = False, literal: bool = False
) -> onnx.ModelProto:
    """Return the graph from counts, or from an embedding where there is no projection, to labels.

    Parameters
    ----------
    precision
        How linear layers are computed.
    tokens
        Start from scGPT's tokens: encoder and classifier in one graph.
    literal
        Keep the m copies, as the paper has them; for comparison, and hundreds of times slower.
    """
    builder = Builder(precision)
    inputs = [_input(contract.THRESHOLD, [])]
    defaults: dict[str, Any] = {contract.THRESHOLD: network.threshold}
    if tokens:
        inputs += _token_inputs()
        x = encoded(builder, _encoder_of(network))
    elif network.projection is not None:
        size = len(network.projection.genes)
        inputs += [_input(contract.COUNTS, ["cells", size]), _input(contract.TOTAL, ["cells"])]
        scale = {contract.GENE_MEAN: network.projection.mean, contract.GENE_STD: network.projection.std}
        inputs += [_input(name, [size]) for name in (contract.FOUND, *scale)]
        defaults |= scale
        x = builder.add("Identity", expression(builder, network.projection), name=contract.VECTOR)
    else:
        inputs.append(_input(contract.EMBEDDING, ["cells", network.config.input_dim]))
        x = contract.EMBEDDING
    decide(builder, classifier(builder, network.config, network.weights, x, literal=literal), network.temperature)
    outputs = [
        _input(contract.PROBABILITIES, ["cells", network.config.n_labels]),
        _input(contract.CONFIDENCE, ["cells"]),
        _input(contract.ENERGY, ["cells"]),
        _input(contract.BEST_LABEL, ["cells"], TensorProto.INT64),
        _input(contract.LABEL, ["cells"], TensorProto.INT64),
    ]
    if x == contract.VECTOR:
        outputs.append(_input(contract.VECTOR, ["cells", network.config.input_dim]))
    return _model(builder, inputs, outputs, defaults, network.metadata)


def encoder_graph(network: Network, precision: str = "fp32") -> onnx.ModelProto:
    """Return the graph from scGPT's tokens to the embedding of a cell."""
    builder = Builder(precision)
    builder.add("Identity", encoded(builder, _encoder_of(network)), name=contract.EMBEDDING)
    outputs = [_input(contract.EMBEDDING, ["cells", _encoder_of(network).dim])]
    metadata = {**(network.metadata or {}), "vocabulary": _encoder_of(network).vocabulary.to_json()}
    return _model(builder, _token_inputs(), outputs, {}, metadata)


def _encoder_of(network: Network) -> Encoder:
    if network.encoder is None:
        msg = "This network has no scGPT encoder."
        raise ValueError(msg)
    return network.encoder


def _token_inputs() -> list[onnx.ValueInfoProto]:
    shape = ["cells", "tokens"]
    whole = [_input(name, shape, TensorProto.INT64) for name in (contract.TOKEN_IDS, contract.VALUES)]
    return [*whole, _input(contract.MASK, shape, TensorProto.BOOL)]


def _input(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _model(
    builder: Builder,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    defaults: Mapping[str, Any],
    metadata: Mapping[str, str] | None,
) -> onnx.ModelProto:
    """Return the finished model, checked. An input that is also an initializer is optional, with that default."""
    tensors = [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in defaults.items()]
    graph = helper.make_graph(builder.nodes, "spikgpt", inputs, outputs, [*builder.constants.values(), *tensors])
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="spikgpt-onnx")
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def _sum(builder: Builder, values: Sequence[str]) -> str:
    """Add the sum of several values."""
    return values[0] if len(values) == 1 else builder.add("Sum", *values)

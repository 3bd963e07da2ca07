"""The spiking classifier of :mod:`spikgpt.engines.model` as nodes of a graph, with every BatchNorm folded.

The paper repeats each cell m times, so all entries of ``Q Kᵀ`` are q · k, and ``Q Kᵀ V`` is m (q · k) v.
One copy with weight m is enough. q, k and v are spikes, so (q · k) v is a whole number, exact in any precision. The
graph divides the threshold of the neurons by m s / tau, with the attention scale s and the time constant tau. So the
current stays a whole number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import helper

from spikgpt.reference.config import SpikGPTConfig
from spikgpt.types import Floats
from spikgpt_onnx.graph.builder import LARGEST_WHOLE, Builder, Linear
from spikgpt_onnx.graph.neurons import Neurons


class Classifier:
    """Add a classifier to a graph.

    A value over time is a list of names: T names if the value differs from step to step, one name if it is constant.
    With ``literal``, B counts the m copies of every cell, one after another, until the copies are averaged.
    """

    def __init__(
        self, builder: Builder, config: SpikGPTConfig, weights: Mapping[str, Floats], *, literal: bool = False
    ) -> None:
        self.builder, self.config, self.weights, self.literal = builder, config, weights, literal

    def logits(self, x: str) -> str:
        """Add the network from vectors, shape (B, input_dim), to logits, shape (B, L)."""
        builder, config, add = self.builder, self.config, self.builder.add
        if config.has_stem:
            x = builder.linear(x, self._layer("stem"))  # (B, D)
        if self.literal:
            copies = add("Tile", add("Unsqueeze", x, builder.integers(1)), builder.integers(1, config.copies, 1))
            x = add("Reshape", copies, builder.integers(-1, config.width))  # (B, D)
        inputs = [x]
        for index in range(config.depth):
            fired, rest = self._block(f"blocks.{index}", inputs)
            output = self._layer(f"blocks.{index}.mlp.output")
            if index < config.depth - 1:
                inputs = [builder.linear(spike, output, whole=True) for spike in fired]
                if rest:
                    inputs = [add("Add", value, other) for value, other in zip(inputs, rest, strict=True)]
        return self._head(output, fired, rest)

    def _layer(self, name: str) -> Linear:
        return Linear.from_weights(self.weights, name)

    def _block(self, name: str, inputs: list[str]) -> tuple[list[str], list[str]]:
        """Add a block up to the hidden neurons of its MLP; ``inputs`` are T values of shape (B, D), or one.

        Returns the spikes of the hidden neurons as float32, T values of shape (B, F). Also returns the residual values
        that are added to the MLP's output, T values of shape (B, D), or an empty list without residual connections.
        """
        builder, config = self.builder, self.config
        spikes = self._attention(self._layer(f"{name}.attention.query_key_value"), inputs)
        neurons = Neurons(builder, config)
        hidden = self._layer(f"{name}.mlp.hidden").times(-1 / config.tau)  # signed as Neurons.spikes expects
        summed = [builder.cast(spike) for spike in spikes]  # T times (B, D)
        if config.residual:
            repeated = inputs * (config.time_steps // len(inputs))
            summed = [builder.add("Add", value, spike) for value, spike in zip(repeated, summed, strict=True)]
        if config.residual and builder.precision == "int8":
            # The layer is applied to input and spikes separately, as only the spikes are whole numbers.
            base = [builder.linear(value, hidden) for value in inputs]
            base *= config.time_steps // len(inputs)
            currents = []
            for spike, rest, factor in zip(spikes, base, neurons.factors, strict=True):
                product = builder.linear(spike, replace(hidden, bias=None), whole=True, plus=(rest, 1.0))
                currents.append(builder.add("Mul", product, builder.number(factor)))
        else:
            currents = [
                builder.linear(value, hidden, whole=not config.residual, times=factor)
                for value, factor in zip(summed, neurons.factors, strict=True)
            ]
        return [builder.cast(spike) for spike in neurons.spikes(currents)], summed if config.residual else []

    def _head(self, output: Linear, fired: list[str], rest: list[str]) -> str:
        """Add the last MLP's output layer with the residual values, the average over time, and the head."""
        builder, config = self.builder, self.config
        # These layers are linear, so the average over time comes first, and one product replaces T products. The
        # residual values take the place of the bias in the product's Gemm, so the head includes the bias.
        mean = Linear(output.name, output.weight / config.time_steps)
        plus = (builder.sum(rest), 1 / config.time_steps) if rest else None
        x = builder.linear(builder.sum(fired), mean, whole=config.time_steps <= LARGEST_WHOLE, plus=plus)  # (B, D)
        if self.literal:
            x = builder.add("Reshape", x, builder.integers(-1, config.copies, config.width))
            x = builder.add("ReduceMean", x, builder.integers(1), keepdims=0)  # (cells, D)
        return builder.linear(x, self._layer("head").carrying(output))

    def _attention(self, layer: Linear, inputs: Sequence[str]) -> list[str]:
        """Add spiking self-attention ``SN(Q Kᵀ V s)``; return the boolean spikes of each step, shape (B, D)."""
        builder, config, add = self.builder, self.config, self.builder.add
        neurons = Neurons(builder, config)
        # Without an attention scale, s is 1 / m, so m s is exactly 1.
        gain = 1.0 if config.attention_scale is None else config.copies * config.attention_scale
        out = Neurons(builder, config, gain / config.tau / (config.copies if self.literal else 1))
        # Unless ``literal``, cells are the last axis: products with the weight of a head then run along all cells, and
        # not along the E values of a head.
        project = builder.linear if self.literal else builder.turned_linear
        if len(inputs) == 1:
            spikes = neurons.spikes_of_constant(project(inputs[0], layer.times(1 / config.tau)))
        else:
            negative = layer.times(-1 / config.tau)
            spikes = neurons.spikes(
                [project(x, negative, times=t) for x, t in zip(inputs, neurons.factors, strict=True)]
            )
        if self.literal:
            weighted = [self._over_copies(spike) for spike in spikes]  # T times (B, D)
            times = [builder.number(-factor) for factor in out.factors]
            return out.spikes([add("Mul", current, factor) for current, factor in zip(weighted, times, strict=True)])
        currents = [self._weighted(spike, -factor) for spike, factor in zip(spikes, out.factors, strict=True)]
        return [add("Transpose", spike, perm=[1, 0]) for spike in out.spikes(currents)]

    def _weighted(self, spike: str, times: float) -> str:
        """Add (q · k) v of each head, multiplied by ``times``, shape (D, B), from spikes, shape (3 D, B)."""
        builder, heads, add = self.builder, self.config.heads, self.builder.add
        parts = [f"{spike} q", f"{spike} k", f"{spike} v"]
        split = add("Reshape", spike, builder.integers(3, heads, self.config.width // heads, -1))  # (3, H, E, B)
        builder.nodes.append(helper.make_node("Split", [split], parts, f"{spike} split", axis=0, num_outputs=3))
        query, key, value = parts  # each (1, H, E, B)
        both = builder.cast(add("And", query, key))
        weight = add("ReduceSum", both, builder.integers(2), keepdims=1)  # (1, H, 1, B)
        weight = add("Mul", weight, builder.number(times))
        current = add("Mul", weight, builder.cast(value))  # (1, H, E, B)
        return add("Reshape", current, builder.integers(self.config.width, -1))

    def _over_copies(self, spike: str) -> str:
        """Add ``Q Kᵀ V`` over the m copies of each cell, whole numbers of shape (B, D), from spikes, shape (B, 3 D)."""
        builder, config, add = self.builder, self.config, self.builder.add
        shape = builder.integers(-1, config.copies, 3, config.heads, config.width // config.heads)
        tokens = add("Reshape", builder.cast(spike), shape)  # (cells, m, 3, H, E)
        by_part = add("Transpose", tokens, perm=[2, 0, 3, 1, 4])  # (3, cells, H, m, E)
        query, key, value = (
            add("Gather", by_part, builder.constant(f"part {n}", n, np.int64), axis=0) for n in range(3)
        )
        scores = add("MatMul", query, add("Transpose", key, perm=[0, 1, 3, 2]))  # (cells, H, m, m)
        attended = add("Transpose", add("MatMul", scores, value), perm=[0, 2, 1, 3])  # (cells, m, H, E)
        return add("Reshape", attended, builder.integers(-1, config.width))

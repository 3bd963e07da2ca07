"""The spiking classifier of :mod:`spikgpt.engines.model` as nodes of a graph, with every BatchNorm folded.

*One copy for m.* The paper repeats each cell m times. The copies agree in everything, so that all entries of their
``Q Kᵀ`` are the same number q · k, and ``Q Kᵀ V`` is m (q · k) v for each: one copy, weighted with m, is enough. Only
the literal form, for comparison, has them all.

*Whole numbers stay whole.* q, k and v are spikes, so q · k counts where both fire, and (q · k) v is a whole number,
exact in any precision. The scale m s / tau by which it becomes a current divides the threshold of the neurons instead.
So potentials that should meet the threshold exactly do.
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
    """A classifier that adds itself to a graph.

    What differs from step to step is a list of T names, and what is the same at every step a list of one. With
    ``literal``, B stands for the m copies of every cell, one after the other, up to the average over them.
    """

    def __init__(
        self, builder: Builder, config: SpikGPTConfig, weights: Mapping[str, Floats], *, literal: bool = False
    ) -> None:
        self.builder, self.config, self.weights, self.literal = builder, config, weights, literal

    def logits(self, x: str) -> str:
        """Add the network, (B, input_dim) to (B, L)."""
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
        return Linear.of(self.weights, name)

    def _block(self, name: str, inputs: list[str]) -> tuple[list[str], list[str]]:
        """Add a block up to the hidden neurons of its MLP, from inputs T times (B, D), or once.

        Returns the spikes of these neurons as numbers, T times (B, F), and what the residual connections add to the
        MLP's output, T times (B, D), if there are any.
        """
        builder, config = self.builder, self.config
        spikes = self._attention(self._layer(f"{name}.attention.query_key_value"), inputs)
        neurons = Neurons(builder, config)
        hidden = self._layer(f"{name}.mlp.hidden").times(-1 / config.tau)  # as the neurons want their currents
        summed = [builder.cast(spike) for spike in spikes]  # T times (B, D)
        if config.residual:
            repeated = inputs * (config.time_steps // len(inputs))
            summed = [builder.add("Add", value, spike) for value, spike in zip(repeated, summed, strict=True)]
        if config.residual and builder.precision == "int8":
            # Input and spikes go through the layer apart, since the spikes alone are whole.
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
        return [builder.cast(spike) for spike in neurons.of(currents)], summed if config.residual else []

    def _head(self, output: Linear, fired: list[str], rest: list[str]) -> str:
        """Add the last MLP's output layer, what its residual connections add, the average over time, and the head."""
        builder, config = self.builder, self.config
        # All of it is linear, so the average over time comes first, and one product does for T. The rest takes the
        # place of the bias in that product's Gemm, so the head carries the bias.
        mean = Linear(output.name, output.weight / config.time_steps)
        plus = (builder.sum(rest), 1 / config.time_steps) if rest else None
        x = builder.linear(builder.sum(fired), mean, whole=config.time_steps <= LARGEST_WHOLE, plus=plus)  # (B, D)
        if self.literal:
            x = builder.add("Reshape", x, builder.integers(-1, config.copies, config.width))
            x = builder.add("ReduceMean", x, builder.integers(1), keepdims=0)  # (cells, D)
        return builder.linear(x, self._layer("head").carrying(output))

    def _attention(self, layer: Linear, inputs: Sequence[str]) -> list[str]:
        """Add spiking self-attention ``SN(Q Kᵀ V s)`` and return its spikes at each step, bool, (B, D)."""
        builder, config, add = self.builder, self.config, self.builder.add
        neurons = Neurons(builder, config)
        # Without a scale, s is 1 / m, and m s is 1, exactly.
        gain = 1.0 if config.attention_scale is None else config.copies * config.attention_scale
        out = Neurons(builder, config, gain / config.tau / (config.copies if self.literal else 1))
        # Cells last in memory, unless literal: the weight of a head is then multiplied along a run of all cells, not
        # along its E values.
        project = builder.linear if self.literal else builder.turned_linear
        if len(inputs) == 1:
            spikes = neurons.of_constant(project(inputs[0], layer.times(1 / config.tau)))
        else:
            negative = layer.times(-1 / config.tau)
            spikes = neurons.of([project(x, negative, times=t) for x, t in zip(inputs, neurons.factors, strict=True)])
        if self.literal:
            weighted = [self._over_copies(spike) for spike in spikes]  # T times (B, D)
            times = [builder.number(-factor) for factor in out.factors]
            return out.of([add("Mul", current, factor) for current, factor in zip(weighted, times, strict=True)])
        currents = [self._weighted(spike, -factor) for spike, factor in zip(spikes, out.factors, strict=True)]
        return [add("Transpose", spike, perm=[1, 0]) for spike in out.of(currents)]

    def _weighted(self, spike: str, times: float) -> str:
        """Add (q · k) v of each head, times a number: whole numbers, (3 D, B) to (D, B)."""
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
        """Add ``Q Kᵀ V`` over the m copies of each cell: whole numbers, (B, 3 D) to (B, D)."""
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

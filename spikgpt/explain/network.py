"""Gradients of the spiking classifier in NumPy, with the surrogate derivative of a spike that its training used.

A spike is a step function of the membrane potential, whose derivative is 0 or undefined. Training replaces it by the
derivative of a smooth function. The gradients of this module use the same derivative. The reset of a potential is left
out of the gradient, as in training.

In the shapes T is the number of time steps, B of cells, N of neurons, F of hidden neurons, H of heads, and L of labels.
D is the width, and E = D / H. Methods return an output together with its pullback: the function that maps the gradient
of the output to the gradient of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from spikgpt.engines.numpy import NumpyClassifier
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.types import Floats

# Maps the gradient of an output to the gradient of an input.
Pullback = Callable[[Floats], npt.NDArray[np.float64]]


class DifferentiableClassifier(NumpyClassifier):
    """The classifier of a reference with gradients, in float64."""

    def __init__(self, config: SpikGPTConfig, weights: Mapping[str, Floats]) -> None:
        super().__init__(config, weights, np.float64)

    def forward(self, vectors: Floats) -> tuple[npt.NDArray[np.float64], Pullback]:
        """Return the logits of cells, shape (B, L), from vectors, shape (B, input_dim), and their pullback."""
        config = self.config
        pulls: list[Pullback] = []
        x: Floats = np.asarray(vectors, dtype=np.float64)
        x = (self._linear("stem", x) if config.has_stem else x)[None]  # (1, B, D)
        for index in range(config.depth):
            x, pull_block = self._block(f"blocks.{index}", x)
            pulls.append(pull_block)
        steps = x.shape[0]

        def pull(gradient: Floats) -> npt.NDArray[np.float64]:
            of_mean = gradient @ self.layers["head"][0].T / steps  # (B, D)
            of_x = np.broadcast_to(of_mean, (steps, *of_mean.shape))
            for pull_block in reversed(pulls):
                of_x = pull_block(of_x)
            of_input = of_x.sum(axis=0)
            return np.asarray(of_input @ self.layers["stem"][0].T if config.has_stem else of_input)

        return np.asarray(self._linear("head", x.mean(axis=0))), pull

    def _block(self, name: str, x: Floats) -> tuple[npt.NDArray[np.float64], Pullback]:
        """Return the output of a block, shape (T, B, D), for input ``x``, shape (T or 1, B, D), and its pullback."""
        residual = self.config.residual
        attended, pull_attention = self._attention(f"{name}.attention.query_key_value", x)
        middle = x + attended if residual else attended  # (T, B, D)
        spikes, pull_spikes = self._spikes(self._linear(f"{name}.mlp.hidden", middle))  # (T, B, F)
        output = self._linear(f"{name}.mlp.output", spikes)  # (T, B, D)
        hidden_weight, output_weight = self.layers[f"{name}.mlp.hidden"][0], self.layers[f"{name}.mlp.output"][0]
        one_step = len(x) == 1

        def pull(gradient: Floats) -> npt.NDArray[np.float64]:
            of_middle = pull_spikes(gradient @ output_weight.T) @ hidden_weight.T
            of_middle = of_middle + gradient if residual else of_middle
            of_x = pull_attention(of_middle)
            if residual:
                of_x = of_x + (of_middle.sum(axis=0, keepdims=True) if one_step else of_middle)
            return np.asarray(of_x)

        return np.asarray(middle + output if residual else output), pull

    def _attention(self, name: str, x: Floats) -> tuple[npt.NDArray[np.float64], Pullback]:
        """Return the spikes of the attention, shape (T, B, D), for ``x``, shape (T or 1, B, D), and their pullback."""
        config = self.config
        spikes, pull_spikes = self._spikes(self._linear(name, x))  # (T, B, 3D)
        steps, cells = spikes.shape[:2]
        by_head = spikes.reshape(steps, cells, 3, config.heads, -1)  # (T, B, 3, H, E)
        query, key, value = np.moveaxis(by_head, 2, 0)  # each (T, B, H, E)
        coincident = config.copies * (query * key).sum(axis=-1, keepdims=True)  # (T, B, H, 1)
        attended, scale = coincident * value, config.attention_scale
        currents = attended / config.copies if scale is None else attended * scale
        output, pull_output = self._spikes(currents.reshape(steps, cells, config.width))
        weight, factor = self.layers[name][0], config.scale

        def pull(gradient: Floats) -> npt.NDArray[np.float64]:
            of_attended = pull_output(gradient).reshape(value.shape) * factor  # (T, B, H, E)
            of_pairs = config.copies * (of_attended * value).sum(axis=-1, keepdims=True)  # (T, B, H, 1)
            parts = np.stack([of_pairs * key, of_pairs * query, of_attended * coincident], axis=2)
            return np.asarray(pull_spikes(parts.reshape(steps, cells, -1)) @ weight.T)

        return output, pull

    def _spikes(self, currents: Floats) -> tuple[npt.NDArray[np.float64], Pullback]:
        """Return the spikes of neurons, shape (T, B, N), for currents, shape (T or 1, B, N), and their pullback."""
        config = self.config
        shape = config.time_steps, *currents.shape[1:]
        spikes, charged = np.empty(shape), np.empty(shape)
        potential = np.zeros(shape[1:])  # (B, N)
        for step, current in enumerate(np.broadcast_to(currents, shape)):
            potential += (current - potential) / config.tau
            charged[step] = potential
            fired = potential >= config.v_threshold
            spikes[step] = fired
            potential[fired] = 0
        one_step = len(currents) == 1

        def pull(gradient: Floats) -> npt.NDArray[np.float64]:
            slopes = self._surrogate(charged - config.v_threshold)
            of_currents, carried = np.empty(shape), np.zeros(shape[1:])
            for step in reversed(range(config.time_steps)):
                of_charged = gradient[step] * slopes[step] + carried * (1 - spikes[step])
                of_currents[step] = of_charged / config.tau
                carried = of_charged * (1 - 1 / config.tau)
            return of_currents.sum(axis=0, keepdims=True) if one_step else of_currents

        return spikes, pull

    def _surrogate(self, above: Floats) -> npt.NDArray[np.float64]:
        """Return the surrogate derivative of spikes from ``above``, the potentials minus the threshold."""
        alpha = self.config.surrogate_alpha
        if self.config.surrogate == "sigmoid":
            fired = 1 / (1 + np.exp(-alpha * above))
            return np.asarray(alpha * fired * (1 - fired))
        return np.asarray(alpha / 2 / (1 + (np.pi / 2 * alpha * above) ** 2))

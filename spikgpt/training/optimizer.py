"""Optimisers for the training, built on the functions behind ``torch.optim``.

The classes of ``torch.optim`` give the same weights, but import torch's compiler, which takes several seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd


class AdamW:
    """AdamW with weight decay on matrices only: decay would pull the gains of BatchNorm towards 0."""

    def __init__(self, network: nn.Module, weight_decay: float) -> None:
        matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
        self.parameters = matrices + vectors
        self._groups = ((range(len(matrices)), weight_decay), (range(len(matrices), len(self.parameters)), 0.0))
        self.state = {
            index: {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for index, parameter in enumerate(self.parameters)
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the parameters from their gradients: one optimiser step."""
        for indices, weight_decay in self._groups:
            used = [(self.parameters[index], self.state[index]) for index in indices]
            pairs = [(parameter, parameter.grad, state) for parameter, state in used if parameter.grad is not None]
            adamw(
                [parameter for parameter, _, _ in pairs],
                [gradient for _, gradient, _ in pairs],
                [state["exp_avg"] for _, _, state in pairs],
                [state["exp_avg_sq"] for _, _, state in pairs],
                [],
                [state["step"] for _, _, state in pairs],
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )


class SGD:
    """Stochastic gradient descent with momentum."""

    def __init__(self, network: nn.Module, momentum: float, weight_decay: float) -> None:
        self.parameters = list(network.parameters())
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state: dict[int, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the parameters from their gradients: one optimiser step."""
        used = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        # A parameter has no momentum buffer before the first step, in which ``sgd`` creates the buffer.
        buffers = [self.state.get(index, {}).get("momentum_buffer") for index in used]
        sgd(
            [self.parameters[index] for index in used],
            [gradient for index in used if (gradient := self.parameters[index].grad) is not None],
            buffers,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        self.state |= {
            index: {"momentum_buffer": buffer}
            for index, buffer in zip(used, buffers, strict=True)
            if buffer is not None
        }

"""Leaky integrate-and-fire neurons with a hand-written gradient, for training.

The network is built with SpikingJelly's neurons. For their gradient, torch records a graph node for each operation of
each time step. The neurons of this module compute the same spikes and gradients as SpikingJelly, in a few
passes over all time steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn


@contextmanager
def fast_neurons(network: nn.Module) -> Iterator[None]:
    """Replace all neurons of a network that :class:`FastLIF` can replace, until the end of the context."""
    replaced = [
        (module, name, child)
        for module in network.modules()
        for name, child in module.named_children()
        if FastLIF.can_replace(child)
    ]
    for module, name, child in replaced:
        setattr(module, name, FastLIF(child))
    try:
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)


class FastLIF(nn.Module):
    """Replacement for a multi-step LIFNode with detached hard reset to 0; the potential starts at 0."""

    def __init__(self, neurons: neuron.LIFNode) -> None:
        super().__init__()
        self.tau, self.threshold = neurons.tau, neurons.v_threshold
        self.atan = isinstance(neurons.surrogate_function, surrogate.ATan)
        self.alpha = neurons.surrogate_function.alpha

    @staticmethod
    def can_replace(module: nn.Module) -> bool:
        """Return True for neurons like those that :func:`spikgpt.engines.model.spiking_neurons` builds."""
        return (
            isinstance(module, neuron.LIFNode)
            and module.step_mode == "m"
            and module.decay_input
            and module.detach_reset
            and module.v_reset == 0
            and isinstance(module.surrogate_function, surrogate.ATan | surrogate.Sigmoid)
        )

    def forward(self, currents: Tensor) -> Tensor:
        """Return the spikes, 0 or 1, of input currents, both of shape (T, ...)."""
        settings = self.tau, self.threshold, self.alpha, self.atan
        spikes: Tensor = _Spikes.apply(currents, *settings)  # type: ignore[no-untyped-call]
        return spikes


class _Spikes(torch.autograd.Function):
    """Spikes of input currents; the backward pass uses the surrogate gradient.

    Every operation writes floats into allocated memory, because boolean masks are several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, currents: Tensor, tau: float, threshold: float, alpha: float, atan: bool) -> Tensor:
        charged = torch.empty(currents.shape, dtype=currents.dtype, device=currents.device)  # (T, ...)
        spikes = torch.empty_like(charged)
        torch.div(currents[0], tau, out=charged[0])
        torch.ge(charged[0], threshold, out=spikes[0])
        for step in range(1, len(currents)):
            # A neuron that fired starts again at 0: h - h * spike.
            potential = torch.addcmul(charged[step - 1], charged[step - 1], spikes[step - 1], value=-1)
            torch.sub(currents[step], potential, out=charged[step]).div_(tau).add_(potential)
            torch.ge(charged[step], threshold, out=spikes[step])
        ctx.save_for_backward(charged, spikes)
        ctx.settings = tau, threshold, alpha, atan
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        charged, spikes = ctx.saved_tensors
        tau, threshold, alpha, atan = ctx.settings
        total = _surrogate_gradient(charged - threshold, alpha, atan=atan).mul_(gradients[0])  # (T, ...)
        for step in range(len(total) - 2, -1, -1):
            later = total[step + 1]
            carried = torch.div(later, tau).neg_().add_(later)
            total[step].add_(carried.mul_(1 - spikes[step]))
        return total.div_(tau), None, None, None, None


def _surrogate_gradient(x: Tensor, alpha: float, *, atan: bool) -> Tensor:
    """Return the derivative of SpikingJelly's surrogate function at ``x``; the memory of ``x`` is overwritten."""
    if atan:
        return torch.div(alpha / 2, x.mul_(math.pi / 2 * alpha).square_().add_(1))
    sigmoid = x.mul_(alpha).sigmoid_()
    return (1 - sigmoid).mul_(sigmoid).mul_(alpha)

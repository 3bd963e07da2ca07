"""Leaky integrate-and-fire neurons, unrolled over the time steps, in few operators.

At each step the input x charges the potential v of a neuron. The neuron fires where v reaches the threshold, and is
then reset::

    h = v + (x - v) / tau = a v + c        where a = 1 - 1 / tau is the leak and c = x / tau the current
    spike = h >= threshold
    v = 0 if spike else h

The division by tau is part of the weights of the layer before. Two rewritings save most of the other operators.

*A constant current* occurs in the first block, whose input is the same at every step. A neuron that did not fire has
h = c S(d) at d steps after a reset, where S(d) = 1 + a + ... + a^(d-1). The neuron fires at the first d with
c S(d) >= threshold and starts again from 0, so it fires every d steps. T comparisons ``c >= threshold / S(d)`` give the
period d, and the period gives all spikes.

*A varying current* takes four operators a step as written above: multiply by the leak, add, compare, reset.

- With every sign changed, the reset is one operator. ThresholdedRelu keeps values above a limit and sets the others to
  0. The neurons that did not fire have -h above -threshold.
- In units of a^t there is no leak. With H(t) = h(t) / a^t and V(t) = v(t) / a^t, H(t) = V(t-1) + c(t) / a^t, and the
  neuron fires at threshold / a^t. Currents and thresholds therefore grow from step to step, by :attr:`Neurons.factors`.
  The layer before the neurons multiplies the currents by these factors at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph.builder import Builder

# Largest growth of currents from the first to the last step; with many steps, growth could exceed float32.
LARGEST_GROWTH = 2.0**20


class Neurons:
    """Add a layer of neurons, whose currents are already divided by tau and by ``gain``.

    Dividing both the currents and the threshold of a neuron by a number does not change its spikes.
    """

    def __init__(self, builder: Builder, config: SpikGPTConfig, gain: float = 1.0) -> None:
        self.builder, self.steps = builder, config.time_steps
        self.threshold, self.leak = config.v_threshold / gain, 1 - 1 / config.tau

    def spikes_of_constant(self, current: str) -> list[str]:
        """Add the boolean spikes of each step, for a current that is the same at every step."""
        add = self.builder.add
        charged = np.cumsum(self.leak ** np.arange(self.steps))  # S(1) ... S(T)
        # reached[d - 1] is True if the neuron fires within d steps. With period d, reached[d - 2] is False: an Xor.
        reached = [add("GreaterOrEqual", current, self.builder.number(self.threshold / total)) for total in charged]
        every = []
        for step in range(1, self.steps + 1):
            # A neuron fires if its period divides the step; adjacent periods, such as 1, 2, 3 of step 6, are one range.
            periods = [period for period in range(1, step + 1) if step % period == 0]
            fired = ""
            for first in (period for period in periods if period - 1 not in periods):
                last = next(period for period in periods if period >= first and period + 1 not in periods)
                within = reached[last - 1]
                if first > 1:
                    within = add("Xor", within, reached[first - 2])
                fired = add("Or", fired, within) if fired else within
            every.append(fired)
        return every

    @cached_property
    def factors(self) -> list[float]:
        """Return for each step the factor by which the currents are multiplied before :meth:`spikes`."""
        growth = (1 / self.leak) ** np.arange(self.steps)
        return growth.tolist() if growth[-1] <= LARGEST_GROWTH else [1.0] * self.steps

    def spikes(self, currents: Sequence[str]) -> list[str]:
        """Add the boolean spikes of each step, from currents that were multiplied by ``factors`` and by -1."""
        add, number = self.builder.add, self.builder.number
        spikes, kept = [], ""
        for step, (current, factor) in enumerate(zip(currents, self.factors, strict=True)):
            if kept and self.factors[-1] == 1:
                # With too many steps for growing currents, the leak is an operator.
                kept = add("Mul", kept, number(self.leak))
            charged = add("Add", kept, current) if kept else current
            spikes.append(add("LessOrEqual", charged, number(-self.threshold * factor)))
            if step < len(currents) - 1:
                kept = add("ThresholdedRelu", charged, alpha=-self.threshold * factor)
        return spikes

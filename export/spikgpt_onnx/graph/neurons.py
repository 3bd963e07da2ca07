"""Leaky integrate-and-fire neurons, unrolled over the time steps, in as few operators as they need.

At each step a neuron charges its potential v by its input x, fires where that reaches the threshold, and is reset::

    h = v + (x - v) / tau = a v + c        where a = 1 - 1 / tau is the leak and c = x / tau the current
    spike = h >= threshold
    v = 0 if spike else h

The layer before the neurons does the division by tau, as part of its weights. Two rewritings save most of the rest.

*A constant current*, as in the first block, whose input is the same at every step. d steps after a reset, a neuron that
did not fire has h = c S(d), where S(d) = 1 + a + ... + a^(d-1). It fires at the first d with c S(d) >= threshold, and
starts again from 0: every d steps. So T comparisons ``c >= threshold / S(d)`` give its period, and that all spikes.

*A varying current*. As written above, a step multiplies by the leak, adds, compares, and resets by the comparison.

- With every sign turned round, the reset is one operator by itself. ThresholdedRelu keeps what lies above a limit and
  turns the rest into 0; and of -h, what lies above -threshold is what did not fire.
- In units of a^t there is no leak. With H(t) = h(t) / a^t and V(t) = v(t) / a^t, H(t) = V(t-1) + c(t) / a^t, and it
  fires at threshold / a^t. So currents and thresholds grow from step to step, by :attr:`Neurons.factors`; and the
  factor of the currents costs nothing, as the layer before multiplies with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph.builder import Builder

# Of currents from the first step to the last; float32 has room for much more, but many steps grow without bound.
LARGEST_GROWTH = 2.0**20


class Neurons:
    """A layer of neurons, whose currents come divided by tau and by ``gain``.

    A neuron whose currents and threshold are both divided by a number fires as before.
    """

    def __init__(self, builder: Builder, config: SpikGPTConfig, gain: float = 1.0) -> None:
        self.builder, self.steps = builder, config.time_steps
        self.threshold, self.leak = config.v_threshold / gain, 1 - 1 / config.tau

    def of_constant(self, current: str) -> list[str]:
        """Return the spikes of each step, bool, for a current that is the same at every step."""
        add = self.builder.add
        charged = np.cumsum(self.leak ** np.arange(self.steps))  # S(1) ... S(T)
        # By step d or before. Those of period d are reached[d - 1] without reached[d - 2], which it holds: an Xor.
        reached = [add("GreaterOrEqual", current, self.builder.number(self.threshold / total)) for total in charged]
        every = []
        for step in range(1, self.steps + 1):
            # Whoever's period divides the step fires; neighbouring periods, such as 1, 2, 3 of step 6, are one range.
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
        """What :meth:`of` wants the currents of each step to be multiplied with."""
        growth = (1 / self.leak) ** np.arange(self.steps)
        return growth.tolist() if growth[-1] <= LARGEST_GROWTH else [1.0] * self.steps

    def of(self, currents: Sequence[str]) -> list[str]:
        """Return the spikes of each step, bool, from the currents of each, times their factors, times -1."""
        add, number = self.builder.add, self.builder.number
        spikes, kept = [], ""
        for step, (current, factor) in enumerate(zip(currents, self.factors, strict=True)):
            if kept and self.factors[-1] == 1:
                # Too many steps to grow, so the leak is an operator after all.
                kept = add("Mul", kept, number(self.leak))
            charged = add("Add", kept, current) if kept else current
            spikes.append(add("LessOrEqual", charged, number(-self.threshold * factor)))
            if step < len(currents) - 1:
                kept = add("ThresholdedRelu", charged, alpha=-self.threshold * factor)
        return spikes

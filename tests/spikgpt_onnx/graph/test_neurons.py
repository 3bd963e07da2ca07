"""Neurons in ONNX Runtime, with potentials near the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph.builder import Builder
from spikgpt_onnx.graph.neurons import Neurons
from tests.spikgpt_onnx.graph.networks import Array, run


def spikes_of(currents: Array, steps: int, tau: float, *, constant: bool) -> Array:
    """Return the spikes, shape (steps, n), of neurons in ONNX Runtime for currents divided by tau, shape (n,)."""
    builder = Builder()
    neurons = Neurons(builder, SpikGPTConfig(8, 2, time_steps=steps, tau=tau))
    if constant:
        spikes = neurons.spikes_of_constant("current")
    else:
        negative = [builder.add("Mul", "current", builder.number(-factor)) for factor in neurons.factors]
        spikes = neurons.spikes(negative)
    names = [builder.add("Identity", spike, name=f"step {step}") for step, spike in enumerate(spikes)]
    inputs = [helper.make_tensor_value_info("current", TensorProto.FLOAT, ["n"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.BOOL, ["n"]) for name in names]
    results = run(builder.model(inputs, outputs, {}, {}), {"current": currents})
    return np.stack([results[name] for name in names])


def loop(currents: Array, steps: int, tau: float, dtype: Any) -> Array:
    """Return the spikes of leaky integrate-and-fire neurons in a loop: charge, fire at 1, reset to 0."""
    v, spikes = np.zeros(len(currents), dtype), []
    for _ in range(steps):
        h = (dtype(1 - 1 / tau) * v + currents.astype(dtype)).astype(dtype)
        spikes.append(h >= 1)
        v = np.where(h >= 1, dtype(0), h)
    return np.stack(spikes)


@pytest.mark.parametrize("tau", [1.25, 2.0, 3.7])
@pytest.mark.parametrize("steps", [1, 2, 4, 12, 40])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "stepwise"])
def test_neurons_fire_as_in_the_loop_except_near_the_threshold(tau: float, steps: int, constant: bool) -> None:
    leak = 1 - 1 / tau
    edges = np.array([1 / sum(leak**i for i in range(d)) for d in range(1, steps + 1)])
    around = edges[:, None] * (1 + np.arange(-64, 65) * 2.0**-24)
    currents = np.concatenate([np.linspace(-2, 3, 4001), around.ravel()]).astype(np.float32)

    spikes = spikes_of(currents, steps, tau, constant=constant)

    differing = (spikes != loop(currents, steps, tau, np.float64)).any(axis=0)
    distance = np.abs(currents[:, None].astype(np.float64) / edges - 1).min(axis=1)
    # Each step can add one rounding error.
    assert (distance[differing] < (8 + steps) * 2.0**-24).all()
    assert spikes.any()
    assert not spikes.all()


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "stepwise"])
def test_a_potential_equal_to_the_threshold_fires(constant: bool) -> None:
    # With tau 2, a potential is half of the previous one plus the current. Current 1 reaches the threshold 1 at once,
    # and current 0.5 never does: 0.5, 0.75, 0.875, 0.9375.
    currents = np.array([1.0, np.nextafter(np.float32(1), np.float32(0)), 0.5], dtype=np.float32)
    spikes = spikes_of(currents, 4, 2.0, constant=constant)
    assert spikes[:, 0].all()
    assert spikes[:, 1].tolist() == [False, True, False, True]
    assert not spikes[:, 2].any()


def test_a_current_just_above_two_thirds_fires_at_the_second_step() -> None:
    # A current of 2/3 charges a neuron to exactly 1 in two steps. The float32 value is slightly above 2/3.
    current = np.array([2 / 3], dtype=np.float32)
    assert np.float64(current[0]) > 2 / 3
    assert loop(current, 2, 2.0, np.float64)[1, 0]
    assert spikes_of(current, 2, 2.0, constant=True)[1, 0]


def test_factors_do_not_grow_with_many_steps() -> None:
    few, many = (Neurons(Builder(), SpikGPTConfig(8, 2, time_steps=steps)).factors for steps in (4, 40))
    assert few == [1, 2, 4, 8]
    assert set(many) == {1.0}

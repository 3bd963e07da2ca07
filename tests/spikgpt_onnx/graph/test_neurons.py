"""Neurons alone, in a real ONNX Runtime session, at the edge of firing."""

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
    """Run neurons alone, in ONNX Runtime: currents, shape (n,), divided by tau, to spikes, shape (steps, n)."""
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
    found = run(builder.model(inputs, outputs, {}, {}), {"current": currents})
    return np.stack([found[name] for name in names])


def loop(currents: Array, steps: int, tau: float, dtype: Any) -> Array:
    """Leaky integrate-and-fire as the textbook has it: charge, fire at 1, reset to 0."""
    v, spikes = np.zeros(len(currents), dtype), []
    for _ in range(steps):
        h = (dtype(1 - 1 / tau) * v + currents.astype(dtype)).astype(dtype)
        spikes.append(h >= 1)
        v = np.where(h >= 1, dtype(0), h)
    return np.stack(spikes)


@pytest.mark.parametrize("tau", [1.25, 2.0, 3.7])
@pytest.mark.parametrize("steps", [1, 2, 4, 12, 40])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "stepwise"])
def test_neurons_fire_as_the_loop_does_but_within_rounding_of_the_threshold(
    tau: float, steps: int, constant: bool
) -> None:
    leak = 1 - 1 / tau
    edges = np.array([1 / sum(leak**i for i in range(d)) for d in range(1, steps + 1)])
    around = edges[:, None] * (1 + np.arange(-64, 65) * 2.0**-24)
    currents = np.concatenate([np.linspace(-2, 3, 4001), around.ravel()]).astype(np.float32)

    found = spikes_of(currents, steps, tau, constant=constant)

    differ = (found != loop(currents, steps, tau, np.float64)).any(axis=0)
    distance = np.abs(currents[:, None].astype(np.float64) / edges - 1).min(axis=1)
    # Every step may round once more.
    assert (distance[differ] < (8 + steps) * 2.0**-24).all()
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "stepwise"])
def test_a_potential_that_meets_the_threshold_exactly_fires(constant: bool) -> None:
    # With tau 2: the first step meets it with 1, the second with 0.5 + 0.5; 0.25 + ... never does.
    currents = np.array([1.0, np.nextafter(np.float32(1), np.float32(0)), 0.5], dtype=np.float32)
    found = spikes_of(currents, 4, 2.0, constant=constant)
    assert found[:, 0].all()
    assert found[:, 1].tolist() == [False, True, False, True]
    assert not found[:, 2].any()


def test_a_neighbouring_float_may_fire_a_step_later() -> None:
    # 2/3 charges a neuron to exactly 1 in two steps; as a float32 it is a little more, and the loop in float32 rounds.
    current = np.array([2 / 3], dtype=np.float32)
    assert np.float64(current[0]) > 2 / 3
    assert loop(current, 2, 2.0, np.float64)[1, 0]
    assert spikes_of(current, 2, 2.0, constant=True)[1, 0]


def test_many_steps_do_not_grow_without_bound() -> None:
    few, many = (Neurons(Builder(), SpikGPTConfig(8, 2, time_steps=steps)).factors for steps in (4, 40))
    assert few == [1, 2, 4, 8]
    assert set(many) == {1.0}

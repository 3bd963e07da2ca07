"""Fast neurons equal those of SpikingJelly, which define the network."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from spikgpt.engines.model import SpikingClassifier, spiking_neurons
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.neurons import FastLIF, fast_neurons
from spikgpt.training.recipes import DEFAULT, PAPER, TrainingRecipe, network_config

CONFIGS = [
    SpikGPTConfig(input_dim=4, n_labels=2),
    SpikGPTConfig(input_dim=4, n_labels=2, tau=3.7, v_threshold=0.6, surrogate="sigmoid", surrogate_alpha=4.0),
    SpikGPTConfig(input_dim=4, n_labels=2, time_steps=1, surrogate_alpha=0.5),
]


def spikes_and_gradient(neurons: nn.Module, currents: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spikes of neurons, and the gradient of the weighted sum of the spikes by the currents."""
    currents = currents.clone().requires_grad_()
    spikes = neurons(currents)
    torch.autograd.backward((spikes * weights).sum())
    assert currents.grad is not None
    return spikes.detach(), currents.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", CONFIGS, ids=["default", "sigmoid", "one step"])
def test_spikes_and_gradients_equal_those_of_spikingjelly(config: SpikGPTConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    currents = 2 * torch.randn(config.time_steps, 50, 7, dtype=dtype)
    currents[0, 0] = config.tau * config.v_threshold  # exactly at the threshold
    weights, neurons = torch.randn_like(currents), spiking_neurons(config)
    assert FastLIF.can_replace(neurons)
    spikes, gradient = spikes_and_gradient(FastLIF(neurons), currents, weights)
    expected, expected_gradient = spikes_and_gradient(neurons, currents, weights)
    assert 0 < spikes.mean() < 1
    assert torch.equal(spikes, expected)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("recipe", [DEFAULT, PAPER], ids=lambda recipe: recipe.name)
def test_gradients_of_the_weights_equal_those_of_spikingjelly(recipe: TrainingRecipe) -> None:
    torch.manual_seed(1)
    network = SpikingClassifier(network_config(recipe, 12, 3)).double()
    cells, labels = torch.randn(40, 12, dtype=torch.float64), torch.arange(40) % 3
    gradients = []
    for context in (fast_neurons(network), nullcontext()):
        with context:
            network.zero_grad()
            torch.manual_seed(2)  # repeat the same random dropout
            torch.autograd.backward(nn.functional.cross_entropy(network(cells), labels))
            gradients.append([parameter.grad for parameter in network.parameters()])
    for fast, expected in zip(*gradients, strict=True):
        assert fast is not None
        torch.testing.assert_close(fast, expected, rtol=1e-12, atol=1e-14)


def test_the_neurons_of_spikingjelly_are_restored_after_the_block() -> None:
    network = SpikingClassifier(CONFIGS[0])
    before, state = list(network.modules()), list(network.state_dict())
    with fast_neurons(network):
        assert sum(isinstance(module, FastLIF) for module in network.modules()) == 3
        assert not any(isinstance(module, neuron.LIFNode) for module in network.modules())
        assert list(network.state_dict()) == state
    assert list(network.modules()) == before


@pytest.mark.parametrize(
    "other",
    [
        neuron.IFNode(step_mode="m"),
        neuron.LIFNode(step_mode="m"),
        neuron.LIFNode(step_mode="m", detach_reset=True, v_reset=None),
        neuron.LIFNode(step_mode="m", detach_reset=True, surrogate_function=surrogate.Erf()),
        nn.ReLU(),
    ],
)
def test_other_neurons_are_not_replaced(other: nn.Module) -> None:
    network = nn.Sequential(other)
    with fast_neurons(network):
        assert network[0] is other

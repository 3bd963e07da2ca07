"""Optimisers equal the classes of torch.optim."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from spikgpt.training.loop import Optimizer
from spikgpt.training.optimizer import SGD, AdamW

RATES = (0.1, 0.02, 0.05, 0.0)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def torch_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, RATES[0])


def torch_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), RATES[0], momentum=0.9, weight_decay=0.5)


@pytest.mark.parametrize(
    ("own", "of_torch"),
    [(lambda model: AdamW(model, 0.5), torch_adamw), (lambda model: SGD(model, 0.9, 0.5), torch_sgd)],
    ids=["AdamW", "SGD"],
)
def test_the_weights_equal_those_of_torch_to_the_bit(
    own: Callable[[nn.Module], Optimizer], of_torch: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    mine, theirs = network(), network()
    optimizer, other = own(mine), of_torch(theirs)
    for rate in RATES:
        x = torch.rand(8, 3)
        for model in (mine, theirs):
            model.zero_grad()
            torch.autograd.backward(model(x).square().sum())
        # torch skips a parameter without a gradient.
        next(mine.parameters()).grad = None if rate == RATES[1] else next(mine.parameters()).grad
        next(theirs.parameters()).grad = None if rate == RATES[1] else next(theirs.parameters()).grad
        optimizer.step(rate)
        for group in other.param_groups:
            group["lr"] = rate
        other.step()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor), name
    # Checkpoints name the tensors as torch does.
    state = other.state_dict()["state"]
    assert {index: set(tensors) for index, tensors in optimizer.state.items()} == {
        index: set(tensors) for index, tensors in state.items()
    }
    assert all(
        torch.equal(optimizer.state[index][name], state[index][name]) for index in state for name in state[index]
    )


def test_a_step_does_not_import_the_compiler_of_torch() -> None:
    code = (
        "import sys, torch\nfrom spikgpt.training.optimizer import AdamW\n"
        "network = torch.nn.Linear(2, 1)\ntorch.autograd.backward(network(torch.ones(3, 2)).sum())\n"
        "AdamW(network, 0.1).step(0.1)\nprint('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

"""Operations, energy and accuracy of networks with and without spikes, on a few cells."""

from __future__ import annotations

import pytest
import torch
from anndata import AnnData
from spikingjelly.activation_based.neuron import LIFNode
from torch import nn

from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.recipes import DEFAULT
from spikgpt_benchmark.studies.energy import DenseClassifier, simple_energy, task_records


@pytest.mark.usefixtures("brief")
def test_each_network_has_operations_energy_and_accuracy(cells: AnnData, few: AnnData) -> None:
    records = {str(record["network"]): record for record in task_records(cells, few, DEFAULT, 0)}
    assert list(records) == ["literal", "collapsed", "collapsed, least", "dense", "logistic regression"]
    literal, collapsed, dense = (records[name] for name in ("literal", "collapsed", "dense"))
    assert literal["accuracy"] == collapsed["accuracy"]
    assert literal["energy, nJ"] > 100 * collapsed["energy, nJ"] > 100 * dense["energy, nJ"]
    assert all(0 < record["accuracy"] <= 1 for record in records.values())
    assert 0 < collapsed["firing rate"] < dense["firing rate"] < 1
    # SpikingJelly estimates the energies in the same order: literal, collapsed, dense.
    by_spikingjelly = [records[name]["by SpikingJelly, nJ"] for name in ("literal", "collapsed", "dense")]
    assert by_spikingjelly == sorted(by_spikingjelly, reverse=True)


def test_the_dense_network_has_activations_in_place_of_spikes() -> None:
    config = SpikGPTConfig(24, 5, width=32, heads=4)
    dense = DenseClassifier(config).eval()
    assert not any(isinstance(module, LIFNode) for module in dense.modules())
    assert sum(isinstance(module, nn.ReLU) for module in dense.modules()) == 3
    spiking = config.shapes()
    assert {name: tuple(tensor.shape) for name, tensor in dense.state_dict().items()} == spiking
    x = torch.randn(7, 24)
    with torch.no_grad():
        assert dense(x).shape == (7, 5)
    assert 0 < dense.active_share(x) < 1


def test_the_energy_of_a_linear_layer_is_that_of_its_counts() -> None:
    x = torch.randn(6, 10)
    # 4.6 pJ for each multiply-accumulate, and 24.96 pJ for each byte of a weight or bias.
    expected = (10 * 3 * 4.6 + (10 * 3 + 3) * 4 * 24.96) / 1000
    assert simple_energy(nn.Linear(10, 3), (x,)) == pytest.approx(expected)

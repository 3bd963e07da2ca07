"""Operations of networks, compared with the counters of SpikingJelly, and the energy model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import op_counter
from spikingjelly.activation_based.neuron import LIFNode
from torch import nn

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.numpy import NumpyClassifier
from spikgpt.explain.energy import (
    BlockSpikes,
    EnergyModel,
    LayerOperations,
    Operations,
    break_even_rate,
    dense_operations,
    energy_table,
    linear_operations,
    spiking_operations,
)
from spikgpt.explain.spikes import SpikeActivity
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.recipes import DEFAULT, PAPER, network_config
from tests.engines.test_model import classifier_for, embeddings

# Settings of networks by name. The few copies keep the literal network quick.
NETWORKS: dict[str, dict[str, Any]] = {
    "default": {"copies": 6},
    "paper": {"copies": 6, "residual": False, "attention_scale": 0.125},
    "two blocks": {"copies": 5, "depth": 2},
}
CELLS = 12


def activity(classifier: SpikingClassifier, vectors: torch.Tensor) -> SpikeActivity:
    """Record the spikes of a classifier for the given vectors, shape (cells, dim)."""
    weights = {name: tensor.numpy() for name, tensor in classifier.state_dict().items()}
    names, labels = [f"cell {row}" for row in range(len(vectors))], list("abcdefgh"[: classifier.config.n_labels])
    return SpikeActivity.record(NumpyClassifier(classifier.config, weights), vectors.numpy(), names, labels, "made up")


def spikingjelly_counts(classifier: nn.Module, x: torch.Tensor, **how: Any) -> dict[str, float]:
    """Return SpikingJelly's mean counts per cell, by name of the operation, without operations inside neurons."""
    mac, synop = op_counter.MACCounter(), op_counter.SynOpCounter()
    ac = op_counter.ACCounter(extra_ignore_modules=[LIFNode])
    memory = op_counter.NeuromorphicMemoryAccessCounter()
    counters = (
        op_counter.DispatchCounterMode([mac, synop, ac]),
        op_counter.ModuleCounterMode([memory], model=classifier),
    )
    with torch.no_grad(), counters[0], counters[1]:
        classifier(x, **how)
    counts = {"mac": mac.get_total(), "synop": synop.get_total(), "ac": ac.get_total()}
    accesses = memory.get_counts()["Global"]
    words = {name: number / x.element_size() for name, number in accesses.items()}
    return {name: number / len(x) for name, number in (counts | words).items()}


def sum_over_layers(operations: Operations, field: str, names: Iterable[str]) -> float:
    """Return the sum of a field over the layers whose name ends with one of ``names``."""
    return float(sum(getattr(layer, field) for layer in operations.layers if layer.name.endswith(tuple(names))))


@pytest.mark.parametrize("overrides", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("literal", [False, True], ids=["collapsed", "literal"])
def test_counts_are_those_of_spikingjelly(overrides: dict[str, Any], literal: bool) -> None:
    classifier, x = classifier_for(overrides, trained=True), embeddings(CELLS).double()
    folded, config = classifier.double().folded(), classifier.config
    recorded = activity(classifier, x)
    operations = spiking_operations(config, recorded.blocks, "literal" if literal else "collapsed")
    counts = spikingjelly_counts(folded, x, literal=literal)
    neurons = operations.total("potentials") / 2
    assert operations.total("macs") - neurons == pytest.approx(counts["mac"], rel=1e-12)
    assert operations.total("weights") == pytest.approx(counts["weight_read_bytes"], rel=1e-12)
    assert operations.total("biases") == pytest.approx(counts["bias_read_bytes"], rel=1e-12)
    assert neurons == pytest.approx(counts["neuron_state_read_bytes"], rel=1e-12)
    assert neurons == pytest.approx(counts["neuron_state_write_bytes"], rel=1e-12)
    assert recorded.blocks[0].coincidences > 0
    if literal:
        uncounted = sum_over_layers(operations, "accumulations", ("residual", "average"))
        assert operations.total("accumulations") - uncounted == pytest.approx(counts["synop"], rel=1e-12)
        # The input of the first block is a view of one step and one copy. PyTorch adds the biases of this layer in a
        # separate operation. SpikingJelly counts such an operation for this layer only.
        biases = sum_over_layers(operations, "biases", ("blocks.0.attention.query_key_value",))
        assert operations.total("accumulations") + biases == pytest.approx(counts["ac"], rel=1e-12)
    else:
        # SpikingJelly counts the collapsed attention as a sum over all neurons of a head, whether or not they fire.
        attention = sum_over_layers(operations, "accumulations", (".attention",))
        sums = config.depth * config.time_steps * (config.width - config.heads)
        assert operations.total("accumulations") - attention + sums == pytest.approx(counts["ac"], rel=1e-12)


def test_one_literal_copy_counts_the_attention_of_the_collapsed_network() -> None:
    classifier, x = classifier_for({"copies": 6}, trained=True), embeddings(CELLS).double()
    recorded = activity(classifier, x)
    single = SpikingClassifier(replace(classifier.config, copies=1)).double()
    single.load_state_dict(classifier.double().state_dict())
    counts = spikingjelly_counts(single.eval().folded(), x, literal=True)
    collapsed = recorded.operations
    assert collapsed.total("accumulations") - sum_over_layers(
        collapsed, "accumulations", ("residual", "average")
    ) == pytest.approx(counts["synop"], rel=1e-12)


def test_dense_and_linear_counts_are_those_of_spikingjelly() -> None:
    config = SpikGPTConfig(24, 5, width=32, heads=4, copies=1, time_steps=1)
    classifier = SpikingClassifier(config).double().eval().folded()
    for name, module in list(classifier.named_modules()):
        if isinstance(module, LIFNode):
            classifier.set_submodule(name, nn.Softplus())
    counts, dense = spikingjelly_counts(classifier, embeddings(CELLS)[:, :24].double()), dense_operations(config)
    attention = sum_over_layers(dense, "macs", (".attention",))
    assert attention == 2 * config.width
    assert dense.total("macs") - attention == pytest.approx(counts["mac"], rel=1e-12)
    assert dense.total("weights") == pytest.approx(counts["weight_read_bytes"], rel=1e-12)
    assert dense.total("biases") == pytest.approx(counts["bias_read_bytes"], rel=1e-12)
    linear = spikingjelly_counts(nn.Linear(24, 5).double(), torch.randn(CELLS, 24, dtype=torch.float64))
    assert linear_operations(24, 5).total("macs") == linear["mac"]
    assert linear_operations(24, 5).total("weights", "biases") == (
        linear["weight_read_bytes"] + linear["bias_read_bytes"]
    )


def test_energy_follows_the_figures_of_horowitz() -> None:
    model = EnergyModel()
    assert [model.access(words) for words in (2048, 2049, 8192, 8193, 2**18, 2**18 + 1)] == [5, 10, 10, 50, 50, 650]
    layers = (
        LayerOperations.dense("a", 10, 5),
        LayerOperations.neurons("b", 20),
        LayerOperations.spiking("c", 3, 7, 1),
    )
    operations = Operations(layers, stored_weights=9000, stored_potentials=20)
    assert operations.compute_energy() == pytest.approx((70 * 4.6 + 21 * 0.9) / 1000)
    assert operations.memory_energy() == pytest.approx(((55 + 28) * 50 + 40 * 5) / 1000)
    assert operations.energy() == pytest.approx(operations.compute_energy() + operations.memory_energy())
    free = replace(model, memories=((math.inf, 0.0),))
    table = energy_table([("made up", operations)], free)
    assert table.loc["made up", "energy, nJ"] == pytest.approx(operations.compute_energy())
    assert operations.table().loc["c", "AC"] == 21


def test_energy_grows_with_the_firing_rate_and_crosses_that_of_the_dense_network_once() -> None:
    paper = replace(network_config(PAPER, 64, 9), copies=300)
    rate = break_even_rate(paper)
    assert rate is not None
    dense = dense_operations(paper).energy()

    def energy(rate: float) -> float:
        return spiking_operations(paper, [BlockSpikes.at_rate(paper, rate)]).energy()

    assert energy(rate) == pytest.approx(dense, rel=1e-6)
    assert energy(0.5 * rate) < dense < energy(1.5 * rate)
    assert break_even_rate(paper, "literal") is None


def test_with_residual_connections_no_firing_rate_breaks_even_unless_the_input_is_shared() -> None:
    config = network_config(DEFAULT, 64, 9)
    assert break_even_rate(config) is None
    shared = break_even_rate(config, "shared input")
    assert shared is not None
    assert 0.05 < shared < 0.3
    silent = BlockSpikes.at_rate(config, 0)
    least = spiking_operations(config, [silent], "shared input").energy()
    assert least < dense_operations(config).energy() < spiking_operations(config, [silent]).energy()

"""Operations and modelled energy of one cell in a network with spikes, one without spikes, and a linear classifier.

Operations are counted as in SpikingJelly (``spikingjelly.activation_based.op_counter``). Tests compare both counts:

- A linear layer whose input is spikes takes one accumulation (AC) for each spike and output. Any other linear layer
  takes one multiply-accumulate (MAC) for each input and output.
- Attention on spikes takes one accumulation for each pair of query and key spikes at the same neuron. It takes one more
  for each value spike. The m copies of a cell in the paper take m² times as many.
- A neuron takes one multiply-accumulate for its leak at each time step.
- Memory takes one read for each weight and bias that is used. It takes one read and one write of each potential at each
  time step. Currents, spikes and their addresses are not counted, which favours the networks with spikes.

T is the number of time steps, D the width, F the number of hidden neurons, and L the number of labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from spikgpt.reference.config import SpikGPTConfig

# Size of a weight or potential in bytes.
WORD = 4
# One picojoule in nanojoules.
PICOJOULES = 1e-3
Form = Literal["literal", "collapsed", "shared input"]
# Number of halvings of the interval in the search for the firing rate at which two energies are equal.
HALVINGS = 40


@dataclass(frozen=True)
class EnergyModel:
    """Energies of operations in pJ, for a 45 nm process at 0.9 V and 32-bit floating point numbers.

    Attributes
    ----------
    mac, accumulation
        Energy of a multiply-accumulate (3.7 + 0.9 pJ), and of an addition.
    memories
        Size of each memory in bytes, and energy of one access to 32 bits. An array lies in the smallest memory that is
        large enough: SRAM of 8 kB, 32 kB or 1 MB, else DRAM.

    References
    ----------
    Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, figure 1.1.9. In the figure, an
    access to 64 bits takes 10, 20, 100 or at least 1300 pJ. ``memories`` has half of each of these energies.
    """

    mac: float = 4.6
    accumulation: float = 0.9
    memories: tuple[tuple[float, float], ...] = ((2**13, 5.0), (2**15, 10.0), (2**20, 50.0), (math.inf, 650.0))

    def access(self, words: float) -> float:
        """Return the energy in pJ of one access to an array of this number of 32-bit words."""
        return next(energy for size, energy in self.memories if words * WORD <= size)


@dataclass(frozen=True)
class BlockSpikes:
    """Number of spikes in one block of the network, summed over all T time steps and averaged over cells.

    Attributes
    ----------
    coincidences
        Number of pairs of a query spike and a key spike at the same neuron and time step.
    values, attended, hidden
        Number of spikes of the value neurons, of the output neurons of the attention, and of the hidden neurons.
    """

    coincidences: float
    values: float
    attended: float
    hidden: float

    @classmethod
    def at_rate(cls, config: SpikGPTConfig, rate: float) -> BlockSpikes:
        """Return the expected number of spikes if each neuron fires independently with probability ``rate``."""
        neurons = config.time_steps * config.width
        hidden = config.time_steps * config.hidden_dim
        return cls(neurons * rate**2, neurons * rate, neurons * rate, hidden * rate)


@dataclass(frozen=True)
class LayerOperations:
    """Number of operations of one layer for one cell.

    ``weights``, ``biases`` and ``potentials`` are the numbers of memory accesses to weights, biases and potentials.
    """

    name: str
    macs: float = 0.0
    accumulations: float = 0.0
    weights: float = 0.0
    biases: float = 0.0
    potentials: float = 0.0

    @classmethod
    def dense(cls, name: str, inputs: int, outputs: int, runs: int = 1) -> LayerOperations:
        """Return the operations of a linear layer whose input is not spikes, for a number of runs of the layer."""
        return cls(name, macs=inputs * outputs * runs, weights=inputs * outputs * runs, biases=outputs * runs)

    @classmethod
    def spiking(cls, name: str, spikes: float, outputs: int, runs: int) -> LayerOperations:
        """Return the operations of a linear layer whose input is this number of spikes over all runs."""
        return cls(name, accumulations=spikes * outputs, weights=spikes * outputs, biases=outputs * runs)

    @classmethod
    def neurons(cls, name: str, updates: int) -> LayerOperations:
        """Return the operations of a layer of leaky neurons; ``updates`` is the number of neurons times time steps."""
        return cls(name, macs=updates, potentials=2 * updates)


@dataclass(frozen=True)
class Operations:
    """Operations of one cell in each layer of a network, and the size of the network in memory.

    Attributes
    ----------
    stored_weights, stored_potentials
        Number of weights and biases of the network, and number of potentials of one cell. Each has 32 bits.
    """

    layers: tuple[LayerOperations, ...]
    stored_weights: int
    stored_potentials: int = 0

    def total(self, *fields: str) -> float:
        """Return the sum of the named fields over all layers."""
        return float(sum(getattr(layer, field) for layer in self.layers for field in fields))

    def compute_energy(self, model: EnergyModel | None = None) -> float:
        """Return the energy of the arithmetic in nJ."""
        model = model or EnergyModel()
        energy = self.total("macs") * model.mac + self.total("accumulations") * model.accumulation
        return energy * PICOJOULES

    def memory_energy(self, model: EnergyModel | None = None) -> float:
        """Return the energy of the accesses to memory in nJ."""
        model = model or EnergyModel()
        energy = self.total("weights", "biases") * model.access(self.stored_weights)
        energy += self.total("potentials") * model.access(self.stored_potentials)
        return energy * PICOJOULES

    def energy(self, model: EnergyModel | None = None) -> float:
        """Return the energy of the arithmetic and the memory accesses of a cell in nJ."""
        return self.compute_energy(model) + self.memory_energy(model)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per layer: multiply-accumulates, accumulations and accesses to memory."""
        rows = [
            {
                "layer": layer.name,
                "MAC": layer.macs,
                "AC": layer.accumulations,
                "memory accesses": layer.weights + layer.biases + layer.potentials,
            }
            for layer in self.layers
        ]
        return pd.DataFrame(rows).set_index("layer")


def spiking_operations(config: SpikGPTConfig, blocks: Sequence[BlockSpikes], form: Form = "collapsed") -> Operations:
    """Return the operations of the spiking network.

    Parameters
    ----------
    blocks
        Number of spikes in each block, for one copy of a cell.
    form
        ``collapsed`` is the network that SpikGPT runs: one copy with gain m. The input layer of the first block runs
        once, not at every time step. ``literal`` is the network of the paper, which runs m copies at every time step.
        ``shared input`` is a lower bound for the collapsed network. It uses W(x + a) = Wx + Wa in the first MLP: Wx is
        computed once, and the spikes a take accumulations.
    """
    tokens = config.copies if form == "literal" else 1
    width, hidden, updates = config.width, config.hidden_dim, config.time_steps * tokens
    layers = [LayerOperations.dense("stem", config.input_dim, width)] if config.has_stem else []
    for index, spikes in enumerate(blocks):
        name = f"blocks.{index}"
        runs = 1 if index == 0 and form != "literal" else updates
        added = [LayerOperations(f"{name}.residual", accumulations=updates * width)] if config.residual else []
        into_mlp = f"{name}.mlp.hidden"
        if not config.residual:
            mlp = [LayerOperations.spiking(into_mlp, spikes.attended * tokens, hidden, updates)]
        elif form == "shared input" and index == 0:
            mlp = [
                LayerOperations.dense(into_mlp, width, hidden),
                LayerOperations.spiking(f"{into_mlp} of spikes", spikes.attended, hidden, 0),
            ]
        else:
            mlp = [LayerOperations.dense(into_mlp, width, hidden, updates)]
        layers += [
            LayerOperations.dense(f"{name}.attention.query_key_value", width, 3 * width, runs),
            LayerOperations.neurons(f"{name}.attention.projection_neurons", 3 * width * updates),
            LayerOperations(f"{name}.attention", accumulations=tokens**2 * (spikes.coincidences + spikes.values)),
            LayerOperations.neurons(f"{name}.attention.output_neurons", width * updates),
            *added,
            *mlp,
            LayerOperations.neurons(f"{name}.mlp.hidden_neurons", hidden * updates),
            LayerOperations.spiking(f"{name}.mlp.output", spikes.hidden * tokens, width, updates),
            *added,
        ]
    layers.append(LayerOperations("average", accumulations=(updates - 1) * width))
    layers.append(LayerOperations.dense("head", width, config.n_labels))
    potentials = tokens * config.depth * (4 * width + hidden)
    return Operations(tuple(layers), _stored_weights(config), potentials)


def dense_operations(config: SpikGPTConfig) -> Operations:
    """Return the operations of a network with the same layers, and activations (ReLU) in place of spikes.

    Without spikes, the network runs one time step.
    """
    width, hidden = config.width, config.hidden_dim
    layers = [LayerOperations.dense("stem", config.input_dim, width)] if config.has_stem else []
    for name in (f"blocks.{index}" for index in range(config.depth)):
        added = [LayerOperations(f"{name}.residual", accumulations=width)] if config.residual else []
        layers += [
            LayerOperations.dense(f"{name}.attention.query_key_value", width, 3 * width),
            LayerOperations(f"{name}.attention", macs=2 * width),
            *added,
            LayerOperations.dense(f"{name}.mlp.hidden", width, hidden),
            LayerOperations.dense(f"{name}.mlp.output", hidden, width),
            *added,
        ]
    layers.append(LayerOperations.dense("head", width, config.n_labels))
    return Operations(tuple(layers), _stored_weights(config))


def linear_operations(input_dim: int, n_labels: int) -> Operations:
    """Return the operations of a linear classifier, such as logistic regression, on the same vectors."""
    layer = LayerOperations.dense("logistic regression", input_dim, n_labels)
    return Operations((layer,), (input_dim + 1) * n_labels)


def energy_table(networks: Iterable[tuple[str, Operations]], model: EnergyModel | None = None) -> pd.DataFrame:
    """Return a table with one row per network: operations, accesses to memory, and energy of one cell in nJ."""
    rows: list[dict[str, Any]] = [
        {
            "network": name,
            "MAC": operations.total("macs"),
            "AC": operations.total("accumulations"),
            "memory accesses": operations.total("weights", "biases", "potentials"),
            "arithmetic, nJ": operations.compute_energy(model),
            "memory, nJ": operations.memory_energy(model),
            "energy, nJ": operations.energy(model),
        }
        for name, operations in networks
    ]
    return pd.DataFrame(rows).set_index("network")


def break_even_rate(config: SpikGPTConfig, form: Form = "collapsed", model: EnergyModel | None = None) -> float | None:
    """Return the firing rate at which the network with spikes takes as much energy as one with activations (ReLU).

    All neurons are assumed to fire at the same rate, independently of each other. None if the network with spikes takes
    more energy at every rate.
    """
    dense = dense_operations(config).energy(model)

    def saves(rate: float) -> bool:
        blocks = [BlockSpikes.at_rate(config, rate)] * config.depth
        return spiking_operations(config, blocks, form).energy(model) < dense

    if not saves(0.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if saves(middle) else (low, middle)
    return low


def _stored_weights(config: SpikGPTConfig) -> int:
    """Return the number of weights and biases, with each BatchNorm folded into its linear layer."""
    layers = [shape for shape in config.shapes().values() if len(shape) == 2]
    return sum(outputs * (inputs + 1) for outputs, inputs in layers)

"""Compare operations, modelled energy and accuracy of networks with and without spikes and logistic regression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from spikingjelly.activation_based.neuron import LIFNode
from spikingjelly.activation_based.op_counter import estimate_simple_energy
from torch import Tensor, nn

from spikgpt.cells.align import joined
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.numpy import NumpyClassifier
from spikgpt.engines.torch import TorchEngine
from spikgpt.explain.energy import Operations, dense_operations, linear_operations, spiking_operations
from spikgpt.explain.spikes import SpikeActivity
from spikgpt.options import TrainOptions
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.cells import prepare
from spikgpt.training.classifier import fit_classifier
from spikgpt.training.fit import fit_model
from spikgpt.training.metrics import measure
from spikgpt.training.recipes import RECIPES, TrainingRecipe
from spikgpt.training.simulation import simulated_vectors
from spikgpt.types import Floats, Integers, Strings
from spikgpt_benchmark.methods.embeddings.classifiers import logistic_regression
from spikgpt_benchmark.studies.datasets import LABEL, UNSEEN, load_pair
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

# Number of cells for SpikingJelly's counters. The network with literal copies takes a second for ten cells.
COUNTED = 24


@dataclass(frozen=True)
class TrainedVectors:
    """Embedding vectors of a task: ``vectors`` to train networks on, their label indices, and the query's vectors."""

    engine: TorchEngine
    names: tuple[str, ...]
    vectors: Floats
    labels: Integers
    query: Floats


class DenseClassifier(SpikingClassifier):
    """The classifier's layers with ReLU in place of spiking neurons, one copy of the cell and one time step."""

    def __init__(self, config: SpikGPTConfig) -> None:
        # Attention divides the sum over the neurons of a head by their number.
        scale = config.heads / config.width
        super().__init__(replace(config, time_steps=1, copies=1, attention_scale=scale))
        for name, module in list(self.named_modules()):
            if isinstance(module, LIFNode):
                self.set_submodule(name, nn.ReLU())

    def active_share(self, x: Tensor) -> float:
        """Return the share of activations that are not 0."""
        shares: list[tuple[float, int]] = []

        def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            shares.append((float((output > 0).double().mean()), output.numel()))

        hooks = [module.register_forward_hook(count) for module in self.modules() if isinstance(module, nn.ReLU)]
        with torch.no_grad():
            self(x)
        for hook in hooks:
            hook.remove()
        return float(np.average([share for share, _ in shares], weights=[size for _, size in shares]))


def trained_vectors(reference: AnnData, query: AnnData, recipe: TrainingRecipe, seed: int) -> TrainedVectors:
    """Train the spiking network on all cells of a reference, and return its engine with all vectors."""
    options = TrainOptions(seed=seed)
    cells = prepare(reference, LABEL, "pca", options)
    fitted = fit_model(cells, np.arange(len(cells.labels)), "all-cells", recipe, options, impute=True)
    engine = fitted.engine
    assert isinstance(engine.embedding, PCAProjection)
    read = cells.values.select(np.arange(len(cells.labels)), fitted.columns)
    vectors = [engine.embedding.project(read.values, read.totals)]
    copies = recipe.augmented_copies if read.kind == "counts" else 0
    vectors += [simulated_vectors(engine.embedding, read, seed=seed + copy) for copy in range(copies)]
    labels = np.tile(np.unique(cells.labels, return_inverse=True)[1], len(vectors))
    aligned = joined(list(engine.embedding.read(query, layer=None, scaling="auto").chunks))
    scale = engine.embedding.fit_scale(aligned, "auto", engine.run).scale
    return TrainedVectors(engine, fitted.names, np.concatenate(vectors), labels, engine.vectors(aligned, scale))


def task_records(reference: AnnData, query: AnnData, recipe: TrainingRecipe, seed: int) -> Iterator[Record]:
    """Yield the figures of each network on one task."""
    task = trained_vectors(reference, query, recipe, seed)
    truth, config = np.asarray(query.obs[LABEL].astype(str)), task.engine.classifier.config
    classifier = NumpyClassifier(config, task.engine.weights())
    cells = list(map(str, range(len(task.query))))
    spikes = SpikeActivity.record(classifier, task.query, cells, task.names, "energy")
    folded = task.engine.classifier.folded().float()
    few = torch.as_tensor(task.query[:COUNTED], dtype=torch.float32)
    forms: dict[str, Any] = {"literal": "literal", "collapsed": "collapsed", "collapsed, least": "shared input"}
    for name, form in forms.items():
        record = figures(name, spiking_operations(config, spikes.blocks, form), spikes.labels, truth, task.names)
        record["firing rate"] = spikes.firing_rate
        if form != "shared input":
            record["by SpikingJelly, nJ"] = simple_energy(folded, (few, form == "literal"))
        yield record
    dense = fit_classifier(
        recipe, task.vectors, task.labels, len(task.names), seed=seed, device="cpu", build=DenseClassifier
    )
    assert isinstance(dense, DenseClassifier)
    x = torch.as_tensor(task.query, dtype=torch.float32)
    with torch.no_grad():
        labels = np.array(task.names)[dense(x).argmax(dim=1).numpy()]
    record = figures("dense", dense_operations(config), labels, truth, task.names)
    record |= {"firing rate": dense.active_share(x), "by SpikingJelly, nJ": simple_energy(dense.folded(), (few,))}
    yield record
    regression = logistic_regression(task.vectors, np.array(task.names)[task.labels], seed)
    labels = np.unique(task.names)[regression(task.query).argmax(axis=1)]
    operations = linear_operations(config.input_dim, config.n_labels)
    record = figures("logistic regression", operations, labels, truth, task.names)
    linear = nn.Linear(config.input_dim, config.n_labels)
    yield record | {"firing rate": None, "by SpikingJelly, nJ": simple_energy(linear, (few,))}


def figures(name: str, operations: Operations, labels: Strings, truth: Strings, names: tuple[str, ...]) -> Record:
    """Return operations, energy and agreement of one network; cells of types outside ``names`` are left out."""
    known = np.isin(truth, names)
    agreement = measure(truth[known], labels[known])
    return {
        "network": name,
        "accuracy": agreement.accuracy,
        "macro-F1": agreement.macro_f1,
        "MAC": operations.total("macs"),
        "AC": operations.total("accumulations"),
        "memory accesses": operations.total("weights", "biases", "potentials"),
        "arithmetic, nJ": operations.compute_energy(),
        "memory, nJ": operations.memory_energy(),
        "energy, nJ": operations.energy(),
    }


def simple_energy(network: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Return the energy of one cell by SpikingJelly's own counters and energy model, in nJ."""
    if len(inputs) == 2:
        network = Literally(network) if inputs[1] else network
    return float(estimate_simple_energy(network, inputs[0]).energy_total_pj) / len(inputs[0]) / 1000


class Literally(nn.Module):
    """A classifier that computes all m copies of each cell, as written in the paper."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of cells."""
        logits: Tensor = self.classifier(x, literal=True)
        return logits


def energy_records(context: StudyContext) -> Iterator[Record]:
    """Yield the figures of each task, recipe and seed."""
    for task in UNSEEN:
        if not context.selects(task):
            continue
        reference, query = load_pair(task, context.data)
        for recipe in RECIPES.values():
            for seed in range(context.seeds):
                for record in task_records(reference, query, recipe, seed):
                    yield {"task": task, "recipe": recipe.name, "seed": seed, **record}


SUITES = {
    "energy": StudySuite(
        "operations, modelled energy and accuracy, with and without spikes",
        energy_records,
        ("task", "recipe", "seed", "network"),
        ("recipe", "network"),
    )
}

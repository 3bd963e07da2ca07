"""Train the spiking classifier on the vectors of labelled cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.scgpt.embedding import device_named
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.loop import TrainingRun, fingerprint, seeded
from spikgpt.training.neurons import fast_neurons
from spikgpt.training.optimizer import SGD, AdamW
from spikgpt.training.recipes import TrainingRecipe, network_config
from spikgpt.training.rounding import round_weights
from spikgpt.types import Floats, Integers


@dataclass(frozen=True)
class Progress:
    """Progress of a training after an epoch; loss and accuracy are means over the training batches of the epoch."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float


def fit_classifier(
    recipe: TrainingRecipe,
    vectors: Floats,
    labels: Integers,
    n_labels: int,
    *,
    seed: int = 0,
    device: str | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
    build: Callable[[SpikGPTConfig], SpikingClassifier] = SpikingClassifier,
) -> SpikingClassifier:
    """Return a trained classifier, on the CPU, in evaluation mode, with rounded weights.

    The result depends on the arguments and the seed alone; on a CPU it repeats exactly.

    Parameters
    ----------
    vectors
        Cell embeddings, shape (n, input_dim).
    labels
        Label index of each cell, shape (n,).
    device
        Name of a torch device; None for a GPU if there is one, else the CPU.
    checkpoint
        File that keeps the state after each epoch; an interrupted training resumes there, with the same result.
    build
        Function that builds the network from a config; another function can build a network with other neurons.

    Raises
    ------
    CheckpointError
        When the checkpoint belongs to other data, another recipe or another seed.
    """
    target = device_named(device)
    config = network_config(recipe, vectors.shape[1], n_labels)
    x = torch.as_tensor(np.ascontiguousarray(vectors, dtype=np.float32), device=target)  # (n, input_dim)
    y = torch.as_tensor(np.ascontiguousarray(labels, dtype=np.int64), device=target)  # (n,)
    weights = _label_weights(y, n_labels, recipe)
    criterion = nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing)
    steps = max(1, math.ceil(len(x) / recipe.batch_size))
    epochs = max(recipe.epochs, math.ceil(recipe.minimum_steps / steps))
    settings = {
        "config": msgspec.to_builtins(config),
        "recipe": asdict(recipe),
        "seed": seed,
        "shape": list(vectors.shape),
    }
    name = fingerprint(settings, vectors.astype("<f4"), labels.astype("<i8"))
    with one_thread(), seeded(seed, target):
        classifier = build(config).to(target)
        by_sgd = recipe.optimizer == "sgd"
        decay = recipe.weight_decay
        optimizer = SGD(classifier, recipe.momentum, decay) if by_sgd else AdamW(classifier, decay)
        warm = round(recipe.warmup * epochs * steps)
        run = TrainingRun(classifier, optimizer, recipe.learning_rate, warm, epochs, steps, seed, name, checkpoint)
        with fast_neurons(classifier):
            run.all_epochs(lambda epoch: _one_epoch(run, epoch, recipe, criterion, x, y), on_epoch)
    classifier = classifier.cpu().eval()
    round_weights(classifier)
    return classifier


def _one_epoch(
    run: TrainingRun, epoch: int, recipe: TrainingRecipe, criterion: nn.Module, x: Tensor, y: Tensor
) -> Progress:
    """Train on every cell once, with the vectors ``x``, shape (n, input_dim), and label indices ``y``, shape (n,)."""
    spread = recipe.noise * x.std(dim=0)  # (input_dim,)
    total_loss = correct = seen = 0.0
    for step, batch in enumerate(torch.split(torch.randperm(len(x)), recipe.batch_size)):
        if len(batch) < 2:  # BatchNorm needs at least two cells
            continue
        cells = x[batch]
        if spread.any():
            cells = cells + spread * torch.randn_like(cells)
        logits = run.network(cells)  # (batch, n_labels)
        loss = criterion(logits, y[batch])
        run.step(epoch, step, loss)
        total_loss += float(loss.detach()) * len(batch)
        correct += float((logits.argmax(1) == y[batch]).sum())
        seen += len(batch)
    return Progress(epoch + 1, run.epochs, total_loss / seen, correct / seen)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operations on one thread.

    On one thread, floating-point sums do not depend on the number of cores. The matrices are small, so more threads
    would not be faster.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _label_weights(labels: Tensor, n_labels: int, recipe: TrainingRecipe) -> Tensor:
    """Return the weight of each label in the loss, shape (n_labels,); the mean weight over cells is 1."""
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1).float()
    weights = (counts / counts.sum()) ** -recipe.class_balance
    return weights * counts.sum() / (weights * counts).sum()

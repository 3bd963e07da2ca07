"""Fit the spiking classifier to vectors of labelled cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.scgpt.embedding import device_named
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.loop import Run, adamw, fingerprint, seeded
from spikgpt.training.recipes import Recipe
from spikgpt.types import Floats, Integers


@dataclass(frozen=True)
class Progress:
    """Where a fit stands after an epoch; accuracy is that of the training batches as they were seen."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float


def fit(
    config: SpikGPTConfig,
    recipe: Recipe,
    vectors: Floats,
    labels: Integers,
    *,
    seed: int = 0,
    device: str | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> SpikingClassifier:
    """Train a classifier.

    The result depends on the arguments and the seed alone; on a CPU it repeats exactly. With a checkpoint file, the
    state is kept after each epoch, and a run that was interrupted goes on from there to the same result.

    Parameters
    ----------
    vectors
        Cell embeddings, shape (n, config.input_dim).
    labels
        Label index of each cell, shape (n,).
    device
        A torch device; by default a GPU when there is one.
    checkpoint
        File to resume from and to write to.

    Returns
    -------
    The trained classifier, on the CPU, in evaluation mode.

    Raises
    ------
    CheckpointError
        When the checkpoint belongs to other data, another recipe or another seed.
    """
    target = device_named(device)
    x = torch.as_tensor(np.ascontiguousarray(vectors, dtype=np.float32), device=target)  # (n, input_dim)
    y = torch.as_tensor(np.ascontiguousarray(labels, dtype=np.int64), device=target)  # (n,)
    steps = max(1, math.ceil(len(x) / recipe.batch_size))
    epochs = max(recipe.epochs, math.ceil(recipe.minimum_steps / steps))
    with one_thread(), seeded(seed, target):
        classifier = SpikingClassifier(config).to(target)
        optimizer, warm = _optimizer(recipe, classifier), round(recipe.warmup * epochs * steps)
        told = {
            "config": msgspec.to_builtins(config),
            "recipe": recipe.to_dict(),
            "seed": seed,
            "shape": list(vectors.shape),
        }
        name = fingerprint(told, vectors.astype("<f4"), labels.astype("<i8"))
        run = Run(classifier, optimizer, recipe.learning_rate, warm, epochs, steps, seed, name, checkpoint)
        weights = _label_weights(y, config.n_labels, recipe)
        criterion = nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing)
        run.all_epochs(lambda epoch: _one_epoch(run, epoch, recipe, criterion, x, y), on_epoch)
    return classifier.cpu().eval()


def _one_epoch(run: Run, epoch: int, recipe: Recipe, criterion: nn.Module, x: Tensor, y: Tensor) -> Progress:
    """Train on every cell once: vectors, shape (n, input_dim), and labels, shape (n,)."""
    spread = recipe.noise * x.std(dim=0)  # (input_dim,)
    total_loss = correct = seen = 0.0
    for step, batch in enumerate(torch.split(torch.randperm(len(x)), recipe.batch_size)):
        if len(batch) < 2:  # BatchNorm needs two
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

    Sums then do not depend on the number of cores, and matrices this small are no faster on several.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _optimizer(recipe: Recipe, classifier: SpikingClassifier) -> torch.optim.Optimizer:
    """Return the recipe's optimiser."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            classifier.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return adamw(classifier, recipe.learning_rate, recipe.weight_decay)


def _label_weights(labels: Tensor, n_labels: int, recipe: Recipe) -> Tensor:
    """Return the weight of each label in the loss, (n_labels,), with mean 1 over the cells."""
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1).float()
    weights = (counts / counts.sum()) ** -recipe.class_balance
    return weights * counts.sum() / (weights * counts).sum()

"""Fit a model to labelled cells: the embedding, the spiking classifier and the geometry of the labels."""

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

from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import ObsmEmbedding, vectors_of
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.scgpt.embedding import device_named
from spikgpt.engines.torch import TorchEngine
from spikgpt.options import TrainOptions
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.sampling import stratified
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.training.cells import TrainingCells
from spikgpt.training.loop import TrainingRun, adamw, fingerprint, seeded
from spikgpt.training.pca import fit_pca, simulated_vectors
from spikgpt.training.recipes import TrainingRecipe, network_config
from spikgpt.types import Floats, Integers


@dataclass(frozen=True)
class Progress:
    """State of a training after an epoch; ``accuracy`` is that of the training batches."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float


# Called with the stage of the training and its progress after each epoch.
OnEpoch = Callable[[str, Progress], None]


@dataclass(frozen=True)
class FittedModel:
    """Engine and label geometry fitted to some of the cells; ``names`` are the labels, by index."""

    engine: TorchEngine
    geometry: LabelGeometry
    names: tuple[str, ...]


def fit_model(
    cells: TrainingCells,
    rows: Integers,
    stage: str,
    recipe: TrainingRecipe,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
) -> FittedModel:
    """Fit the embedding, the classifier and the label geometry to some of the cells.

    Parameters
    ----------
    stage
        Name of the step, for ``on_epoch`` and for the checkpoint.
    """
    labels = cells.labels[rows]
    names, index = np.unique(labels, return_inverse=True)
    embedding: Embedding
    if cells.embedding is not None:
        embedding = ObsmEmbedding("vectors", cells.embedding.dim)
        vectors = [vectors_of(cells.read(rows))]
    else:
        sample = stratified(labels)
        embedding = fit_pca(cells.read(rows[sample]), cells.genes, labels[sample], seed=options.seed)
        read = cells.read(rows, embedding.genes)
        vectors = [embedding.project(read.values, read.totals)]
        # Only counts can be drawn again.
        for copy in range(recipe.augmented_copies if read.kind == "counts" else 0):
            vectors.append(simulated_vectors(embedding, read, seed=options.seed + copy))
    classifier = fit_classifier(
        network_config(recipe, embedding.dim, len(names)),
        recipe,
        np.concatenate(vectors),
        np.tile(index, len(vectors)),
        seed=options.seed,
        device=options.device,
        checkpoint=options.checkpoints / f"{stage}.safetensors" if options.checkpoints else None,
        on_epoch=(lambda progress: on_epoch(stage, progress)) if on_epoch else None,
    )
    geometry = LabelGeometry.fit(vectors[0], index)
    return FittedModel(TorchEngine(embedding, classifier), geometry, tuple(names.tolist()))


def fit_classifier(
    config: SpikGPTConfig,
    recipe: TrainingRecipe,
    vectors: Floats,
    labels: Integers,
    *,
    seed: int = 0,
    device: str | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
) -> SpikingClassifier:
    """Return a trained classifier, on the CPU, in evaluation mode.

    The result depends on the arguments and the seed alone; on a CPU it repeats exactly.

    Parameters
    ----------
    vectors
        Cell embeddings, shape (n, config.input_dim).
    labels
        Label index of each cell, shape (n,).
    device
        A torch device; by default a GPU when there is one.
    checkpoint
        File that keeps the state after each epoch; an interrupted training resumes there, with the same result.

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
    settings = {
        "config": msgspec.to_builtins(config),
        "recipe": asdict(recipe),
        "seed": seed,
        "shape": list(vectors.shape),
    }
    name = fingerprint(settings, vectors.astype("<f4"), labels.astype("<i8"))
    with one_thread(), seeded(seed, target):
        classifier = SpikingClassifier(config).to(target)
        optimizer, warm = _optimizer(recipe, classifier), round(recipe.warmup * epochs * steps)
        run = TrainingRun(classifier, optimizer, recipe.learning_rate, warm, epochs, steps, seed, name, checkpoint)
        weights = _label_weights(y, config.n_labels, recipe)
        criterion = nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing)
        run.all_epochs(lambda epoch: _one_epoch(run, epoch, recipe, criterion, x, y), on_epoch)
    return classifier.cpu().eval()


def _one_epoch(
    run: TrainingRun, epoch: int, recipe: TrainingRecipe, criterion: nn.Module, x: Tensor, y: Tensor
) -> Progress:
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


def _optimizer(recipe: TrainingRecipe, classifier: SpikingClassifier) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            classifier.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return adamw(classifier, recipe.learning_rate, recipe.weight_decay)


def _label_weights(labels: Tensor, n_labels: int, recipe: TrainingRecipe) -> Tensor:
    """Return the weight of each label in the loss, (n_labels,), with mean 1 over the cells."""
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1).float()
    weights = (counts / counts.sum()) ** -recipe.class_balance
    return weights * counts.sum() / (weights * counts).sum()

"""Fit the spiking classifier on cell embeddings: two recipes, one loop."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from torch import Tensor, nn

from spikgpt.engines.model import SpikingClassifier
from spikgpt.errors import CheckpointError, ConfigError, LabelsError
from spikgpt.reference.config import SpikGPTConfig

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    ``network`` overrides fields of :class:`SpikGPTConfig`. Training runs for ``epochs``, or longer where that makes
    fewer than ``minimum_steps`` optimiser steps.
    """

    name: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    epochs: int
    minimum_steps: int
    batch_size: int = 128
    # Used by SGD alone.
    momentum: float = 0.9
    # Share of the steps over which the learning rate rises linearly, before it falls along a cosine.
    warmup: float = 0.0
    label_smoothing: float = 0.0
    # Weight of a label in the loss: (its share of cells) ** -class_balance, with mean 1 over cells.
    class_balance: float = 0.0
    # Gaussian noise added to each vector at each step, in standard deviations of each of its values.
    noise: float = 0.0
    # Copies of each cell, as another sample might show it, that an embedder adds to the training cells.
    augmented_copies: int = 0
    # Set the temperature of the probabilities on held-out cells.
    calibrate: bool = True
    # Train again on every labelled cell once the held-out cells have been measured.
    refit: bool = False
    network: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


# As published. The width is the embedding's, copies draw separate dropout masks, and there is no residual.
PAPER = Recipe(
    name="paper",
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=1e-4,
    epochs=10,
    minimum_steps=0,
    calibrate=False,
    network={"width": None, "residual": False, "shared_dropout": False, "attention_scale": 0.125},
)

# Few steps, strong weight decay and noise: on held-out donors and studies each of them beat longer training. Without
# label smoothing, which caps the confidence, the probabilities are better calibrated.
DEFAULT = Recipe(
    name="default",
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=1.0,
    epochs=5,
    minimum_steps=200,
    warmup=0.1,
    class_balance=0.5,
    noise=0.5,
    augmented_copies=1,
    refit=True,
)

RECIPES = {recipe.name: recipe for recipe in (DEFAULT, PAPER)}


def recipe_named(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    ConfigError
        When there is no recipe of that name.
    """
    if name not in RECIPES:
        msg = f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}."
        raise ConfigError(msg)
    return RECIPES[name]


def network_config(recipe: Recipe, input_dim: int, n_labels: int) -> SpikGPTConfig:
    """Return the network that a recipe trains on embeddings of a length."""
    overrides = dict(recipe.network)
    if "width" in overrides and overrides["width"] is None:
        overrides["width"] = input_dim
    width = overrides.get("width", SpikGPTConfig.width)
    # An embedding that the user brings can have any length, and heads must divide the width.
    overrides["heads"] = math.gcd(width, overrides.get("heads", SpikGPTConfig.heads))
    return SpikGPTConfig(input_dim=input_dim, n_labels=n_labels, **overrides)


@dataclass(frozen=True)
class Progress:
    """Where a fit stands after an epoch; accuracy is that of the training batches as they were seen."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float


def hold_out(
    labels: npt.NDArray[np.str_], groups: npt.NDArray[np.str_] | None = None, *, share: float = 0.3, seed: int = 0
) -> tuple[Integers, Integers]:
    """Split cells into a training part and a held-out part.

    Parameters
    ----------
    labels
        Label of each cell, shape (n,).
    groups
        Donor or batch of each cell, shape (n,): whole groups are held out. Without groups the split is stratified by
        label.
    share
        Share of the cells to hold out; with groups, as near to it as whole groups of similar composition allow.

    Returns
    -------
    Sorted indices of the training and the held-out cells.

    Raises
    ------
    LabelsError
        When there is one group alone, or a label has fewer than 2 cells.
    """
    if groups is None:
        names, counts = np.unique(labels, return_counts=True)
        if (counts < 2).any():
            msg = (
                f"{', '.join(names[counts < 2])}: a single labelled cell, which cannot be both trained on and held "
                "out. Remove these labels or merge them with others."
            )
            raise LabelsError(msg)
        # At least one cell of every label on both sides.
        size = max(round(share * len(labels)), len(names))
        train, held = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
        return np.sort(train), np.sort(held)
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        only = str(groups[0])
        msg = f"All cells are of one donor or batch, {only!r}, so none can be held out. Leave the batch key out."
        raise LabelsError(msg)
    folds = StratifiedGroupKFold(min(n_groups, round(1 / share)), shuffle=True, random_state=seed)
    splits = list(folds.split(labels, labels, groups))
    train, held = min(splits, key=lambda split: abs(len(split[1]) / len(labels) - share))
    return np.sort(train), np.sort(held)


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
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = fingerprint(config, recipe, vectors, labels, seed)
    x = torch.as_tensor(np.ascontiguousarray(vectors, dtype=np.float32), device=target)  # (n, input_dim)
    y = torch.as_tensor(np.ascontiguousarray(labels, dtype=np.int64), device=target)  # (n,)
    batches = max(1, math.ceil(len(x) / recipe.batch_size))
    epochs = max(recipe.epochs, math.ceil(recipe.minimum_steps / batches))
    cuda = [target] if target.type == "cuda" else []
    with one_thread(), torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        classifier = SpikingClassifier(config).to(target)
        optimizer = _optimizer(recipe, classifier)
        spread = recipe.noise * x.std(dim=0)  # (input_dim,)
        criterion = nn.CrossEntropyLoss(
            _label_weights(y, config.n_labels, recipe), label_smoothing=recipe.label_smoothing
        )
        first = load_state(checkpoint, run, classifier, optimizer) if checkpoint else 0
        for epoch in range(first, epochs):
            # Every epoch draws from a seed of its own, so a resumed run needs no saved random state.
            torch.manual_seed(epoch_seed(seed, epoch))
            classifier.train()
            total_loss = correct = seen = 0.0
            for step, batch in enumerate(_batches(len(x), recipe.batch_size)):
                rate = learning_rate(recipe, epoch * batches + step, epochs * batches)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                logits = classifier(_noisy(x[batch], spread))  # (batch, n_labels)
                loss = criterion(logits, y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total_loss += float(loss.detach()) * len(batch)
                correct += float((logits.argmax(1) == y[batch]).sum())
                seen += len(batch)
            if checkpoint:
                save_state(checkpoint, run, classifier, optimizer, epoch + 1)
            if on_epoch:
                on_epoch(Progress(epoch + 1, epochs, total_loss / seen, correct / seen))
    return classifier.cpu().eval()


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise over the warm-up, then half a cosine down to 0."""
    warm = round(recipe.warmup * steps)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def fingerprint(config: SpikGPTConfig, recipe: Recipe, vectors: Floats, labels: Integers, seed: int) -> str:
    """Return the sha256 of everything that decides the outcome of a fit."""
    digest = hashlib.sha256()
    settings = {"config": asdict(config), "recipe": recipe.to_dict(), "seed": seed, "shape": list(vectors.shape)}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    return digest.hexdigest()


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


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a seed that differs between epochs and does not collide with those of neighbouring seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")


def _batches(n: int, size: int) -> Iterator[Tensor]:
    """Yield the shuffled indices of each batch; a last batch of one cell is left out, as BatchNorm needs two."""
    for batch in torch.split(torch.randperm(n), size):
        if len(batch) > 1:
            yield batch


def _noisy(vectors: Tensor, spread: Tensor) -> Tensor:
    """Add Gaussian noise of a standard deviation for each value, shape (input_dim,)."""
    return vectors + spread * torch.randn_like(vectors) if spread.any() else vectors


def _optimizer(recipe: Recipe, classifier: SpikingClassifier) -> torch.optim.Optimizer:
    """Return the recipe's optimiser."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            classifier.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    parameters = list(classifier.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        # Decay would pull BatchNorm's gains, and with them all firing, towards 0.
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate)


def _label_weights(labels: Tensor, n_labels: int, recipe: Recipe) -> Tensor:
    """Return the weight of each label in the loss, (n_labels,), with mean 1 over the cells."""
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1).float()
    weights = (counts / counts.sum()) ** -recipe.class_balance
    return weights * counts.sum() / (weights * counts).sum()


def save_state(path: Path, run: str, network: nn.Module, optimizer: torch.optim.Optimizer, epochs_done: int) -> None:
    """Write the state of a run after an epoch, in safetensors, under a temporary name first."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"run": run, "epochs_done": str(epochs_done)},
    )
    temporary.replace(path)


def load_state(path: Path, run: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the state of a run if there is one, and return the number of epochs done.

    Raises
    ------
    CheckpointError
        When the file is damaged or belongs to another run.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        msg = f"The checkpoint {path} cannot be read ({error}). Delete it to train from the start."
        raise CheckpointError(msg) from error
    if metadata.get("run") != run:
        msg = (
            f"The checkpoint {path} belongs to other cells, another recipe or another seed. "
            "Delete it to train from the start, or choose another output folder."
        )
        raise CheckpointError(msg)
    network.load_state_dict(
        {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    )
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["epochs_done"])

"""The two training recipes, and the network of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from spikgpt.reference.config import SpikGPTConfig


@dataclass(frozen=True)
class TrainingRecipe:
    """Settings of the training of a classifier.

    Attributes
    ----------
    epochs, minimum_steps
        Number of epochs, and lowest number of optimiser steps. If the epochs have fewer steps, epochs are added.
    momentum
        Momentum of SGD; AdamW ignores it.
    warmup
        Share of the steps over which the learning rate rises linearly, before it falls along a cosine.
    class_balance
        The weight of a label in the loss is (share of its cells) ** -class_balance, with mean 1 over cells.
    noise
        Standard deviation of the Gaussian noise that is added to the vectors at each step, as a share of the standard
        deviation of each dimension.
    augmented_copies
        Number of simulated copies of each cell, as if from another sample, that are added to the training cells.
    calibrate
        True to fit the temperature of the probabilities on held-out cells.
    refit
        True to train again on all labelled cells after the measurement on held-out cells.
    network
        Fields of :class:`SpikGPTConfig` that differ from its defaults.
    """

    name: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    epochs: int
    minimum_steps: int
    batch_size: int = 128
    momentum: float = 0.9
    warmup: float = 0.0
    label_smoothing: float = 0.0
    class_balance: float = 0.0
    noise: float = 0.0
    augmented_copies: int = 0
    calibrate: bool = True
    refit: bool = False
    network: dict[str, Any] = field(default_factory=dict)


# Published settings: a network as wide as the embedding, a dropout mask for each copy, and no residual connections.
PAPER = TrainingRecipe(
    name="paper",
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=1e-4,
    epochs=10,
    minimum_steps=0,
    calibrate=False,
    network={"width": None, "residual": False, "shared_dropout": False, "attention_scale": 0.125},
)

# Few steps, strong weight decay and noise each gave better labels on held-out donors and studies than longer training.
# Label smoothing limits the confidence, so the probabilities are better calibrated without it.
DEFAULT = TrainingRecipe(
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


def network_config(recipe: TrainingRecipe, input_dim: int, n_labels: int) -> SpikGPTConfig:
    """Return the configuration of the network of a recipe for vectors of ``input_dim`` values."""
    overrides = dict(recipe.network)
    # A width of None stands for the length of the vectors.
    width = overrides["width"] = overrides.get("width", SpikGPTConfig.width) or input_dim
    # A user's embedding can have any length, and the number of heads must divide the width.
    overrides["heads"] = math.gcd(width, overrides.get("heads", SpikGPTConfig.heads))
    return SpikGPTConfig(input_dim=input_dim, n_labels=n_labels, **overrides)

"""How a classifier is trained: two recipes, and the network that each makes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from spikgpt.errors import ConfigError
from spikgpt.reference.config import SpikGPTConfig


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
    # Copies of each cell, as another sample might show it, that are added to the training cells.
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
    """Return a recipe by name."""
    if name not in RECIPES:
        msg = f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}."
        raise ConfigError(msg)
    return RECIPES[name]


def network_config(recipe: Recipe, input_dim: int, n_labels: int) -> SpikGPTConfig:
    """Return the network that a recipe trains on vectors of ``input_dim`` values."""
    overrides = dict(recipe.network)
    # No width is that of the vectors.
    width = overrides["width"] = overrides.get("width", SpikGPTConfig.width) or input_dim
    # An embedding that the user brings can have any length, and heads must divide the width.
    overrides["heads"] = math.gcd(width, overrides.get("heads", SpikGPTConfig.heads))
    return SpikGPTConfig(input_dim=input_dim, n_labels=n_labels, **overrides)

"""Training loop with a learning rate schedule, a seed for each epoch, and checkpoints for resuming."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spikgpt.errors import CheckpointError
from spikgpt.files import replacing

T = TypeVar("T")


class Optimizer(Protocol):
    """Optimiser of parameters; ``state`` holds the optimiser's tensors by index of the parameter and by name."""

    parameters: list[nn.Parameter]
    state: dict[int, dict[str, Tensor]]

    def step(self, learning_rate: float) -> None:
        """Update the parameters from their gradients: one optimiser step."""


@dataclass(frozen=True)
class TrainingRun:
    """Training of a network for ``epochs`` epochs of ``steps`` optimiser steps each.

    Attributes
    ----------
    peak, warm
        The learning rate rises linearly to ``peak`` over the first ``warm`` steps, then falls to 0 along half a cosine.
    fingerprint
        Hash of the cells and settings that determine the trained weights.
    checkpoint
        File that keeps the state after each epoch; an interrupted training resumes there, with the same weights.
    """

    network: nn.Module
    optimizer: Optimizer
    peak: float
    warm: int
    epochs: int
    steps: int
    seed: int
    fingerprint: str
    checkpoint: Path | None = None

    def all_epochs(self, one_epoch: Callable[[int], T], on_epoch: Callable[[T], None] | None) -> None:
        """Train all epochs, or the epochs that remain after a checkpoint; epochs are numbered from 0.

        Parameters
        ----------
        one_epoch
            Function that trains the epoch of a given number with :meth:`step`, and returns a result.
        on_epoch
            Called with the result of ``one_epoch`` after the state is saved.

        Raises
        ------
        CheckpointError
            When the checkpoint is damaged or belongs to another training.
        """
        for epoch in range(self._load(), self.epochs):
            # Every epoch has its own seed, so a resumed training needs no saved random state.
            torch.manual_seed(epoch_seed(self.seed, epoch))
            self.network.train()
            result = one_epoch(epoch)
            self._save(epoch + 1)
            if on_epoch:
                on_epoch(result)

    def step(self, epoch: int, step: int, loss: Tensor, *, largest_gradient: float | None = None) -> None:
        """Take an optimiser step on ``loss``; the norm of the gradient is clipped to ``largest_gradient``, if given."""
        for parameter in self.optimizer.parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        if largest_gradient is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), largest_gradient)
        rate = learning_rate(self.peak, self.warm, epoch * self.steps + step, self.epochs * self.steps)
        self.optimizer.step(rate)

    def _save(self, epochs_done: int) -> None:
        """Write weights, optimiser state and number of finished epochs to the checkpoint, if there is a checkpoint."""
        if self.checkpoint is None:
            return
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimizer.state.items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        metadata = {"run": self.fingerprint, "epochs_done": str(epochs_done)}
        with replacing(self.checkpoint) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)

    def _load(self) -> int:
        """Load the checkpoint if it exists, and return the number of finished epochs."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            msg = f"The checkpoint {self.checkpoint} cannot be read ({error}). Delete it to train from the start."
            raise CheckpointError(msg) from None
        if metadata.get("run") != self.fingerprint:
            msg = (
                f"The checkpoint {self.checkpoint} belongs to other cells, another recipe or another seed. "
                "Delete it to train from the start, or choose another output folder."
            )
            raise CheckpointError(msg)
        prefix = "network."
        self.network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                # torch's optimisers keep the number of steps on the CPU.
                device = "cpu" if key == "step" else self.optimizer.parameters[int(index)].device
                self.optimizer.state.setdefault(int(index), {})[key] = tensor.to(device)
        return int(metadata["epochs_done"])


def learning_rate(peak: float, warm: int, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise over ``warm`` steps, then half a cosine down to 0."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers, and restore the caller's state at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch, which differs from the seeds of other epochs and of other trainings."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")


def fingerprint(settings: dict[str, Any], *arrays: npt.NDArray[Any]) -> str:
    """Return the sha256 of JSON settings and arrays."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

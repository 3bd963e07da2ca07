"""The frozen description of a network, which round-trips through ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from spikgpt.errors import ConfigError

# A file that states more would only use up time or memory.
LARGEST = 100_000
MOST_STEPS = 1000
SURROGATES = ("atan", "sigmoid")


@dataclass(frozen=True)
class SpikGPTConfig:
    """Shape and neuron settings of a :class:`spikgpt.engines.model.SpikingClassifier`.

    The class is checked when it is made, so a config that exists is usable.

    Raises
    ------
    ConfigError
        When a value is out of range or two values contradict each other.
    """

    # Values in a cell embedding, and classes of the head.
    input_dim: int
    n_labels: int
    # Neurons in each of query, key and value. The paper has width == input_dim; a linear stem joins the two otherwise.
    width: int = 128
    # Q Kᵀ is summed within a head, so fewer, wider heads fire more readily.
    heads: int = 8
    # The paper's m: a cell embedding is one token, repeated m times.
    copies: int = 300
    # The paper's T. Every layer sees the same input at each step; only membrane potentials change.
    time_steps: int = 4
    # One block, as in the paper. More did not pay on references of a few thousand cells.
    depth: int = 1
    # Hidden neurons of the MLP, as a multiple of width.
    mlp_ratio: float = 2.0
    # The paper's dropout, inside the MLP and in training only.
    dropout: float = 0.1
    # True: the m copies share one dropout mask. False: each copy draws its own, as in the paper; averaged over
    # 300 copies such a dropout all but vanishes, so sharing is the stronger regulariser.
    shared_dropout: bool = True
    # Add each layer's input to its output. Spikes alone carry T + 1 levels a neuron; the residual keeps the embedding.
    residual: bool = True
    # The s in SN(Q Kᵀ V s). None means 1 / m, for which two coincident spikes fire a neuron of threshold 1 at once.
    # Spikformer's 0.125 with m = 300 makes any single coincidence fire, and the attention is then a plain AND.
    attention_scale: float | None = None
    # Membrane time constant, in time steps; SpikingJelly's default.
    tau: float = 2.0
    # Firing threshold of the membrane potential. BatchNorm brings every input to unit variance before it.
    v_threshold: float = 1.0
    # Derivative used for the spike in training, and its sharpness. Inference does not depend on either.
    surrogate: str = "atan"
    surrogate_alpha: float = 2.0

    def __post_init__(self) -> None:
        for name in ("input_dim", "n_labels", "width", "heads", "copies", "time_steps", "depth"):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}; it must be at least 1."
                raise ConfigError(msg)
            largest = MOST_STEPS if name in ("time_steps", "depth") else LARGEST
            if getattr(self, name) > largest:
                msg = f"{name} is {getattr(self, name)}; this library runs at most {largest:,}."
                raise ConfigError(msg)
        numbers = (self.dropout, self.tau, self.v_threshold, self.mlp_ratio, self.surrogate_alpha, self.scale)
        if not all(map(math.isfinite, numbers)):
            msg = f"The model config holds {numbers}; all of these must be finite."
            raise ConfigError(msg)
        if self.n_labels < 2:
            msg = f"n_labels is {self.n_labels}; a classifier needs at least 2 labels."
            raise ConfigError(msg)
        if self.width % self.heads:
            msg = f"width {self.width} is not a multiple of heads {self.heads}; choose a width that heads divides."
            raise ConfigError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout is {self.dropout}; it must be at least 0 and below 1."
            raise ConfigError(msg)
        if self.tau <= 1:
            msg = f"tau is {self.tau}; a leaky neuron needs a time constant above 1 time step."
            raise ConfigError(msg)
        if self.v_threshold <= 0 or self.mlp_ratio <= 0 or self.surrogate_alpha <= 0 or self.scale <= 0:
            msg = "v_threshold, mlp_ratio, surrogate_alpha and attention_scale must be positive."
            raise ConfigError(msg)
        if self.mlp_ratio > MOST_STEPS:
            msg = f"mlp_ratio is {self.mlp_ratio}; this library runs at most {MOST_STEPS:,}."
            raise ConfigError(msg)
        if self.surrogate not in SURROGATES:
            msg = f"surrogate is {self.surrogate!r}; choose one of {', '.join(SURROGATES)}."
            raise ConfigError(msg)

    @property
    def scale(self) -> float:
        """The s in SN(Q Kᵀ V s)."""
        return 1 / self.copies if self.attention_scale is None else self.attention_scale

    @property
    def hidden_dim(self) -> int:
        """Hidden neurons of the MLP."""
        return max(1, round(self.width * self.mlp_ratio))

    @property
    def has_stem(self) -> bool:
        """Whether a linear stem maps the embedding to the width of the network."""
        return self.input_dim != self.width

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SpikGPTConfig:
        """Build a config from :meth:`to_dict`'s output.

        Raises
        ------
        ConfigError
            When a field is missing, unknown or of another type: nothing is filled in silently.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if missing := sorted(fields.keys() - values.keys()):
            msg = f"The model config lacks {', '.join(missing)}; it needs every field of SpikGPTConfig."
            raise ConfigError(msg)
        if unknown := sorted(values.keys() - fields.keys()):
            msg = f"The model config has unknown fields {', '.join(unknown)}; a newer spikgpt may know them."
            raise ConfigError(msg)
        for name, field in fields.items():
            if not _is_of_type(values[name], str(field.type)):
                msg = f"{name} in the model config is {json.dumps(values[name])}; expected {field.type}."
                raise ConfigError(msg)
        return cls(**values)


def _is_of_type(value: object, annotation: str) -> bool:
    """Whether a JSON value fits a field's annotation; an int is a float, a bool is not an int."""
    if value is None:
        return annotation.endswith("| None")
    kind = annotation.removesuffix(" | None")
    if isinstance(value, bool):
        return kind == "bool"
    return {"int": isinstance(value, int), "float": isinstance(value, int | float), "str": isinstance(value, str)}.get(
        kind, False
    )

"""Settings of the spiking network, as ``config.json`` stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from spikgpt.errors import ConfigError
from spikgpt.reference.schema import require

# Range of the size of a layer. Larger sizes only use up time and memory.
Size = Annotated[int, Meta(ge=1, le=100_000)]
# Range of a constant of neurons. With values outside of this range, neurons fire always or never.
Positive = Annotated[float, Meta(ge=1e-6, le=1e6)]
MOST_LABELS = 10_000
# Largest number of weights (1 GiB in float32), and largest number of intermediate values per cell (2 GiB for 1024
# cells in float64).
MOST_WEIGHTS, MOST_VALUES = 2**28, 2**18


@dataclass(frozen=True)
class SpikGPTConfig:
    """Shape and neuron settings of a :class:`spikgpt.engines.model.SpikingClassifier`.

    The fields are checked when a config is created; an invalid value raises a ConfigError.
    """

    # Length of a cell embedding, and number of labels.
    input_dim: Size
    n_labels: Annotated[int, Meta(ge=2, le=MOST_LABELS)]
    # Number of neurons in each of query, key and value. The paper has width == input_dim. If the two differ, a linear
    # layer, the stem, maps the embedding to this width.
    width: Size = 128
    # Number of attention heads. Q Kᵀ is summed within a head, so neurons of fewer, wider heads fire more readily.
    heads: Size = 8
    # The paper's m: a cell embedding is one token, repeated m times.
    copies: Size = 300
    # The paper's T, the number of time steps. The network gets the same embedding at each step; only the membrane
    # potentials, and so the spikes, change.
    time_steps: Annotated[int, Meta(ge=1, le=1000)] = 4
    # Number of blocks of attention and MLP. The paper has one block. More blocks gave no better labels on references of
    # a few thousand cells.
    depth: Annotated[int, Meta(ge=1, le=100)] = 1
    # Number of hidden neurons of the MLP, as a multiple of width.
    mlp_ratio: Annotated[float, Meta(gt=0, le=100)] = 2.0
    # Dropout probability as in the paper, inside the MLP and in training only.
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    # True: the m copies of a cell share one dropout mask. False: each copy draws its own mask, as in the paper.
    # Averaged over 300 copies, separate masks have almost no effect, so a shared mask is the stronger regulariser.
    shared_dropout: bool = True
    # Add the input of attention and of MLP to their output. In T steps a neuron fires 0 to T times, so spikes alone
    # carry only T + 1 levels per neuron. The addition keeps the values of the embedding.
    residual: bool = True
    # Scale s of the attention SN(Q Kᵀ V s), where SN stands for spiking neurons. None means 1 / m: two coincidences of
    # query and key spikes then fire a neuron of threshold 1 at once. With Spikformer's 0.125 and m = 300, one
    # coincidence is enough, and the attention is a plain logical AND.
    attention_scale: Positive | None = None
    # Membrane time constant in time steps; the default is that of SpikingJelly. A leaky neuron needs a value above 1.
    tau: Annotated[float, Meta(ge=1.001, le=1e6)] = 2.0
    # Membrane potential at which a neuron fires. BatchNorm scales the input of the neurons to unit variance.
    v_threshold: Positive = 1.0
    # Surrogate gradient of a spike in training, and the steepness of this gradient. Inference depends on neither.
    surrogate: Literal["atan", "sigmoid"] = "atan"
    surrogate_alpha: Positive = 2.0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            try:
                msgspec.convert(getattr(self, name), kind)
            except msgspec.ValidationError as error:
                msg = f"{name} of the network is {getattr(self, name)!r}: {error}."
                raise ConfigError(msg) from None
        if self.width % self.heads:
            msg = f"width {self.width} is not a multiple of heads {self.heads}; choose a width that heads divides."
            raise ConfigError(msg)
        inside = self.width * (4 * self.width + 2 * self.hidden_dim)
        weights = self.input_dim * self.width + self.depth * inside + self.n_labels * self.width
        values = self.time_steps * (4 * self.width + self.hidden_dim) + self.n_labels + self.input_dim
        for number, most, unit in ((weights, MOST_WEIGHTS, "weights"), (values, MOST_VALUES, "values a cell")):
            if number > most:
                msg = f"The network has about {number} {unit}; expected at most {most}. Choose a smaller one."
                raise ConfigError(msg)

    @property
    def scale(self) -> float:
        """Scale s of the attention SN(Q Kᵀ V s): ``attention_scale``, or 1 / ``copies`` by default."""
        return 1 / self.copies if self.attention_scale is None else self.attention_scale

    @property
    def hidden_dim(self) -> int:
        """Number of hidden neurons of the MLP."""
        return max(1, round(self.width * self.mlp_ratio))

    @property
    def has_stem(self) -> bool:
        """True if a linear stem maps the embedding to the width of the network."""
        return self.input_dim != self.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of the classifier's weights, by name."""
        shapes: dict[str, tuple[int, ...]] = {"head.weight": (self.n_labels, self.width), "head.bias": (self.n_labels,)}
        # Input and output size of each linear layer that is followed by a BatchNorm.
        normed = {"stem": (self.input_dim, self.width)} if self.has_stem else {}
        for block in (f"blocks.{index}" for index in range(self.depth)):
            normed[f"{block}.attention.query_key_value"] = (self.width, 3 * self.width)
            normed[f"{block}.mlp.hidden"] = (self.width, self.hidden_dim)
            shapes[f"{block}.mlp.output.weight"] = (self.width, self.hidden_dim)
            shapes[f"{block}.mlp.output.bias"] = (self.width,)
        for name, (inputs, outputs) in normed.items():
            shapes[f"{name}.linear.weight"] = (outputs, inputs)
            shapes |= {f"{name}.norm.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
            shapes[f"{name}.norm.num_batches_tracked"] = ()
        return shapes

    def check(self, weights: Mapping[str, Any]) -> None:
        """Refuse weights of the classifier whose names or shapes differ from those of :meth:`shapes`."""
        expected, given = self.shapes(), {name: tuple(weight.shape) for name, weight in weights.items()}
        different = sorted(name for name in expected | given if expected.get(name) != given.get(name))
        shown = ", ".join(f"{name} (expected {expected.get(name)}, found {given.get(name)})" for name in different[:3])
        require(not different, f"The weights do not fit the network: {len(different)} tensors differ, such as {shown}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SpikGPTConfig:
        """Return the config from its fields in ``config.json``, none of which may be missing."""
        known = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(known - values.keys()), sorted(values.keys() - known)
        if missing or unknown:
            problem = f"lacks {', '.join(missing) or 'no field'} and has {', '.join(unknown) or 'none'} that is unknown"
            msg = f"The model config {problem}; expected every field of SpikGPTConfig, as this version has them."
            raise ConfigError(msg)
        return cls(**values)

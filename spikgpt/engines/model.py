"""The spiking classifier: expansion, spiking self-attention, MLP, global average, linear head.

The network has two forms. In the *literal* form of the paper, the embedding of a cell is repeated as ``m`` tokens over
``T`` time steps. The ``m`` tokens are identical, and ``Q Kᵀ V`` over identical tokens is ``m (q · k) v``. So the
*collapsed* form has one token with gain ``m``, and gives the same spikes and logits with the same weights.

In the shape comments T is time steps, B cells, N tokens of a cell (``m``, or 1 when collapsed), D the width,
H heads, E = D / H, F hidden neurons of the MLP.

References
----------
SpikGPT: A High-Accuracy and Interpretable Spiking Attention Framework for Single-Cell Annotation.
Zhou et al., Spikformer: When Spiking Neural Network Meets Transformer (2023), for spiking self-attention.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from spikgpt.reference.config import SpikGPTConfig

# SpikingJelly looks for triton when it is imported. Without a GPU, torch then logs that there is no triton.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)

_SURROGATES = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid}


def spiking_neurons(config: SpikGPTConfig) -> neuron.LIFNode:
    """Return a layer of multi-step leaky integrate-and-fire neurons.

    At each step the membrane potential is charged, ``h = v + (x - v) / tau``; a neuron with ``h >= v_threshold``
    emits a spike and its potential is reset to 0.
    """
    return neuron.LIFNode(
        tau=float(config.tau),
        v_threshold=config.v_threshold,
        surrogate_function=_SURROGATES[config.surrogate](alpha=config.surrogate_alpha),
        # The reset would only add noise to surrogate gradients, so the gradient leaves out the reset.
        detach_reset=True,
        step_mode="m",
    )


def inference_affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return gain and shift of a BatchNorm in inference, from its running statistics, each of shape (out_features,)."""
    statistics = norm.state_dict()
    mean, variance = statistics["running_mean"], statistics["running_var"]  # each (out_features,)
    gain = norm.weight / torch.sqrt(variance + norm.eps)  # (out_features,)
    return gain, norm.bias - mean * gain


class NormedLinear(nn.Module):
    """A linear layer with BatchNorm.

    An L2-normalised embedding has values far below any firing threshold. BatchNorm gives each neuron an input of unit
    variance. Without BatchNorm no neuron fires.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the layer, shape (..., out_features), for ``x``, shape (..., in_features)."""
        y = self.linear(x)  # (..., out_features)
        normal: Tensor = self.norm(y.reshape(-1, y.shape[-1])).reshape(y.shape)
        return normal

    def fold(self) -> None:
        """Fold the BatchNorm's running statistics into the linear layer, for inference."""
        if not isinstance(self.norm, nn.BatchNorm1d):
            return
        gain, shift = inference_affine(self.norm)
        folded = nn.Linear(self.linear.in_features, self.linear.out_features, dtype=gain.dtype, device=gain.device)
        with torch.no_grad():
            folded.weight.copy_(self.linear.weight * gain[:, None])
            folded.bias.copy_(shift)
        self.linear, self.norm = folded, nn.Identity()


class CopyDropout(nn.Module):
    """Dropout for one token that stands for ``m`` copies.

    With ``shared``, all copies have the same mask, as in plain dropout. Otherwise each copy has its own mask. The
    layers between the dropout and the average over copies are linear, so only the average of the masks matters. This
    average is drawn from Binomial(m, 1 - p) / (m (1 - p)).
    """

    def __init__(self, p: float, copies: int, *, shared: bool) -> None:
        super().__init__()
        self.p, self.copies, self.shared = p, copies, shared

    def forward(self, x: Tensor, *, literal: bool) -> Tensor:
        """Return ``x`` with units dropped in training, and ``x`` unchanged in evaluation."""
        if self.shared or literal or not self.training:
            return nn.functional.dropout(x, self.p, self.training)
        kept = torch.binomial(torch.full_like(x, self.copies), torch.full_like(x, 1 - self.p))
        return x * kept / (self.copies * (1 - self.p))


class SpikingSelfAttention(nn.Module):
    """Multi-head attention on spikes without a softmax: ``SN(Q Kᵀ V s)``, with spiking neurons SN and a scale s."""

    def __init__(self, config: SpikGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.query_key_value = NormedLinear(config.width, 3 * config.width)
        self.projection_neurons = spiking_neurons(config)
        self.output_neurons = spiking_neurons(config)

    def forward(self, x: Tensor, *, literal: bool) -> Tensor:
        """Return the spikes, 0 or 1, of attention among the tokens of each cell, shape (T, B, N, D).

        ``x`` has shape (T, B, N, D), or (1, B, N, D) if it is the same at every time step. With ``literal``, the N
        tokens are the m copies; otherwise one token stands for all copies.
        """
        currents = self.query_key_value(x)  # (T or 1, B, N, 3D)
        currents = currents.expand(self.config.time_steps, *currents.shape[1:])  # (T, B, N, 3D)
        spikes = self.projection_neurons(currents)  # (T, B, N, 3D)
        by_head = spikes.unflatten(-1, (3, self.config.heads, -1))  # (T, B, N, 3, H, E)
        query, key, value = by_head.movedim(-2, 2).unbind(-2)  # each (T, B, H, N, E)
        if literal:
            attended = (query @ key.transpose(-2, -1)) @ value  # (T, B, H, N, E)
        else:
            attended = self.config.copies * (query * key).sum(-1, keepdim=True) * value  # (T, B, H, 1, E)
        # Up to here, both forms give whole numbers, so they are exactly equal. Division by m gives whole numbers too. A
        # factor m (1 / m) could round to less than 1, and a potential would then miss its threshold.
        attended = attended.movedim(2, -2).flatten(-2)  # (T, B, N, D)
        scale = self.config.attention_scale
        currents = attended / self.config.copies if scale is None else attended * scale  # (T, B, N, D)
        spikes_out: Tensor = self.output_neurons(currents)  # (T, B, N, D)
        return spikes_out


class SpikingMLP(nn.Module):
    """Projection, spiking neurons, dropout and a linear layer."""

    def __init__(self, config: SpikGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden = NormedLinear(config.width, config.hidden_dim)
        self.hidden_neurons = spiking_neurons(config)
        self.dropout = CopyDropout(config.dropout, config.copies, shared=config.shared_dropout)
        self.output = nn.Linear(config.hidden_dim, config.width)

    def forward(self, x: Tensor, *, literal: bool) -> Tensor:
        """Return the output of the MLP for ``x``, both of shape (T, B, N, D)."""
        spikes = self.hidden_neurons(self.hidden(x))  # (T, B, N, F)
        y: Tensor = self.output(self.dropout(spikes, literal=literal))  # (T, B, N, D)
        return y


class SpikingBlock(nn.Module):
    """Spiking self-attention and MLP, each with a residual connection if the config asks for it."""

    def __init__(self, config: SpikGPTConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.attention = SpikingSelfAttention(config)
        self.mlp = SpikingMLP(config)

    def forward(self, x: Tensor, *, literal: bool) -> Tensor:
        """Return the output of the block, shape (T, B, N, D), for ``x``, shape (T or 1, B, N, D)."""
        attended = self.attention(x, literal=literal)  # (T, B, N, D)
        if not self.residual:
            return self.mlp(attended, literal=literal)  # type: ignore[no-any-return]
        x = x + attended  # (T, B, N, D)
        return x + self.mlp(x, literal=literal)  # type: ignore[no-any-return]


class SpikingClassifier(nn.Module):
    """Network that computes the logits of the labels from the embedding of a cell."""

    def __init__(self, config: SpikGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem: nn.Module = NormedLinear(config.input_dim, config.width) if config.has_stem else nn.Identity()
        self.blocks = nn.ModuleList(SpikingBlock(config) for _ in range(config.depth))
        self.head = nn.Linear(config.width, config.n_labels)

    def forward(self, embedding: Tensor, *, literal: bool = False) -> Tensor:
        """Return the logits of cells, shape (B, n_labels), from their embeddings, shape (B, input_dim).

        ``literal`` runs the paper's m copies over T steps instead of the collapsed form. The logits are the same up to
        rounding, and the run is hundreds of times slower.
        """
        functional.reset_net(self)
        x = self.stem(embedding)[None, :, None]  # (1, B, 1, D)
        if literal:
            x = x.expand(self.config.time_steps, -1, self.config.copies, -1)  # (T, B, m, D)
        for block in self.blocks:
            x = block(x, literal=literal)  # (T, B, N, D)
        logits: Tensor = self.head(x.mean(dim=(0, 2)))  # (B, n_labels)
        return logits

    @classmethod
    def from_weights(cls, config: SpikGPTConfig, weights: Mapping[str, Tensor]) -> SpikingClassifier:
        """Build a classifier in evaluation mode from a state dict, whose shapes are checked."""
        # The check comes first, because a config may state a network far larger than the weights in the file.
        config.check(weights)
        classifier = cls(config)
        classifier.load_state_dict(weights)
        return classifier.eval()

    def folded(self) -> SpikingClassifier:
        """Return a copy for inference, in evaluation mode with every BatchNorm folded into its linear layer."""
        functional.reset_net(self)
        folded = copy.deepcopy(self).eval()
        for module in folded.modules():
            if isinstance(module, NormedLinear):
                module.fold()
        return folded.requires_grad_(False)

"""scGPT's network in plain PyTorch: gene and value embeddings, transformer, cell embedding.

The parameter names are those of the scgpt package. For cell embeddings, the last layer is computed for ``<cls>`` alone.
A gene embedding depends on one vocabulary id only, and a value embedding on one bin only. So both are computed once for
all ids and bins. Source: Cui et al., "scGPT: toward building a foundation model for single-cell multi-omics using
generative AI", Nature Methods 2024, and scgpt 0.2.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu, scaled_dot_product_attention

from spikgpt.embedding.vocabulary import LOWEST_VALUE, MOST_BINS
from spikgpt.errors import CheckpointError

# Largest allowed sizes. The published models have vectors of 512 values, 8 heads, 12 layers and 51 bins.
MOST = {"dim": 2**14, "heads": 2**10, "hidden": 2**16, "layers": 1000, "n_bins": MOST_BINS}
# Names of the sizes in args.json.
FIELDS = {"dim": "embsize", "heads": "nheads", "hidden": "d_hid", "layers": "nlayers", "dropout": "dropout"}


@dataclass(frozen=True)
class ScGPTConfig:
    """Sizes and special values of an scGPT network; the defaults are those of the published whole-human model."""

    dim: int = 512
    heads: int = 8
    hidden: int = 512
    layers: int = 12
    dropout: float = 0.2
    pad_token: str = "<pad>"
    pad_value: int = -2
    mask_value: int = -1
    n_bins: int = 51

    def __post_init__(self) -> None:
        for field, most in MOST.items():
            if getattr(self, field) > most:
                size = f"{FIELDS.get(field, field)} = {getattr(self, field):.6g}"
                msg = f"The scGPT network has {size}; expected at most {most}. Get the checkpoint again."
                raise CheckpointError(msg)
        for field in ("pad_value", "mask_value"):
            if not LOWEST_VALUE <= getattr(self, field) <= self.n_bins:
                value = f"{field} = {getattr(self, field):.6g}"
                msg = f"The scGPT network has {value}; expected {LOWEST_VALUE} to n_bins = {self.n_bins}."
                raise CheckpointError(msg)
        sizes = (self.dim, self.heads, self.hidden, self.layers)
        if min(sizes) < 1 or self.dim % self.heads or not 0 <= self.dropout < 1 or self.n_bins < 3:
            msg = f"{self} is no scGPT network; expected positive sizes, and heads that divide dim. Correct args.json."
            raise CheckpointError(msg)

    @classmethod
    def from_args(cls, args: Any) -> ScGPTConfig:
        """Return the sizes in the content of ``args.json``; raise CheckpointError for an unsupported network."""
        if not isinstance(args, dict):
            msg = f"args.json holds {type(args).__name__}; expected an object with {', '.join(FIELDS.values())}."
            raise CheckpointError(msg)
        for field, expected in {"input_emb_style": "continuous", "cell_emb_style": "cls", "pre_norm": False}.items():
            if args.get(field, expected) != expected:
                msg = f"args.json says {field} = {args[field]!r}; only {expected!r} is supported."
                raise CheckpointError(msg)
        values: dict[str, Any] = {field: args.get(name) for field, name in FIELDS.items()}
        values["dropout"] = args.get("dropout", 0.0)
        for field in ("pad_value", "mask_value", "n_bins"):
            # A value is null if the training did not set it. The scgpt package always embeds with 51 bins.
            values[field] = getattr(cls, field) if args.get(field) is None else args[field]
        for field, value in values.items():
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            # Larger numbers would overflow in later checks.
            whole = whole and abs(value) < 2**63
            if isinstance(value, bool) or not (whole or (field == "dropout" and isinstance(value, float))):
                msg = f"args.json has {FIELDS.get(field, field)} = {repr(value)[:42]}; expected a number."
                raise CheckpointError(msg)
            values[field] = float(value) if field == "dropout" else int(value)
        pad_token = args.get("pad_token", cls.pad_token)
        return cls(**values, pad_token=str(pad_token))

    def to_args(self) -> dict[str, Any]:
        """Return the content of ``args.json``, with all fields that the scgpt package needs to load a model."""
        return {name: getattr(self, field) for field, name in FIELDS.items()} | {
            "n_layers_cls": 3,
            "pad_token": self.pad_token,
            "pad_value": self.pad_value,
            "mask_value": self.mask_value,
            "n_bins": self.n_bins,
            "input_emb_style": "continuous",
        }


class GeneEncoder(nn.Module):
    """Embedding of vocabulary ids with a layer norm."""

    def __init__(self, n_tokens: int, dim: int, pad_id: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, dim, padding_idx=pad_id)
        self.enc_norm = nn.LayerNorm(dim)

    def forward(self, genes: Tensor) -> Tensor:
        """Return the vectors of vocabulary ids, shape (n, length, dim), from ids of shape (n, length)."""
        vectors: Tensor = self.enc_norm(self.embedding(genes))
        return vectors


class ValueEncoder(nn.Module):
    """Embedding of bins, which enter as numbers, by two linear layers and a layer norm."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, dim)
        self.linear2 = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, bins: Tensor) -> Tensor:
        """Return the vectors of bins, shape (n, length, dim), from bins of shape (n, length).

        As in the scgpt package, bins above 512 count as 512.
        """
        values = bins.to(self.linear1.weight.dtype).clamp(max=512)[..., None]
        vectors: Tensor = self.dropout(self.norm(self.linear2(relu(self.linear1(values)))))
        return vectors


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.in_proj = nn.Linear(config.dim, 3 * config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(self, vectors: Tensor, attended: Tensor | None, queries: int | None) -> Tensor:
        """Return the attention output of the first ``queries`` tokens, or of all if None, shape (n, queries, dim).

        ``vectors`` has shape (n, length, dim). ``attended``, shape (n, 1, 1, length), is False for padding; None
        without padding.
        """
        dim = vectors.shape[-1]

        def projected(start: int, stop: int, tokens: Tensor) -> Tensor:
            weight, bias = self.in_proj.weight[start * dim : stop * dim], self.in_proj.bias[start * dim : stop * dim]
            parts = nn.functional.linear(tokens, weight, bias)  # (n, tokens, parts * dim)
            parts = parts.view(*tokens.shape[:2], stop - start, self.heads, -1)
            return parts.permute(2, 0, 3, 1, 4)  # (parts, n, heads, tokens, dim / heads)

        if queries is None:
            query, key, value = projected(0, 3, vectors)
        else:
            (query,), (key, value) = projected(0, 1, vectors[:, :queries]), projected(1, 3, vectors)
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=attended, dropout_p=self.dropout if self.training else 0.0
        )  # (n, heads, queries, dim / heads)
        result: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (n, queries, dim)
        return result


class Layer(nn.Module):
    """One layer of the transformer, with a layer norm after the attention and after the linear layers."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.linear1 = nn.Linear(config.dim, config.hidden)
        self.linear2 = nn.Linear(config.hidden, config.dim)
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, vectors: Tensor, attended: Tensor | None, queries: int | None = None) -> Tensor:
        """Return the new vectors of the first ``queries`` tokens, shape (n, queries, dim).

        Parameters are those of :meth:`Attention.forward`.
        """
        mixed = self.norm1(vectors[:, :queries] + self.dropout(self.self_attn(vectors, attended, queries)))
        hidden = self.dropout(relu(self.linear1(mixed)))
        result: Tensor = self.norm2(mixed + self.dropout(self.linear2(hidden)))
        return result


class ScGPTEncoder(nn.Module):
    """Transformer of scGPT for a vocabulary of ``n_tokens`` tokens, where ``pad_id`` is the index of padding."""

    def __init__(self, config: ScGPTConfig, n_tokens: int, pad_id: int) -> None:
        super().__init__()
        self.config, self.pad_id = config, pad_id
        self.encoder = GeneEncoder(n_tokens, config.dim, pad_id)
        self.value_encoder = ValueEncoder(config.dim, config.dropout)
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(config) for _ in range(config.layers))})
        self._gene_table: Tensor | None = None
        self._value_table: Tensor | None = None

    def forward(self, genes: Tensor, bins: Tensor) -> Tensor:
        """Return the vector of every token, shape (n, length, dim), from genes and bins, each of shape (n, length)."""
        return self._transformed(self.encoder(genes) + self.value_encoder(bins), genes)

    @torch.inference_mode()
    def embed(self, genes: Tensor, bins: Tensor) -> Tensor:
        """Return the vector of ``<cls>`` of each cell, scaled to length 1, shape (n, dim), in float32.

        ``genes`` and ``bins`` have shape (n, length).
        """
        if self._gene_table is None or self._value_table is None:
            self._lowest = min(self.config.pad_value, self.config.mask_value)
            every_bin = torch.arange(self._lowest, self.config.n_bins + 1, device=genes.device)
            self._gene_table = self.encoder.enc_norm(self.encoder.embedding.weight)
            self._value_table = self.value_encoder(every_bin)
        vectors = self._gene_table[genes] + self._value_table[bins - self._lowest]  # (n, length, dim)
        return normalize(self._transformed(vectors, genes, queries=1)[:, 0].float(), dim=1)

    def _transformed(self, vectors: Tensor, genes: Tensor, queries: int | None = None) -> Tensor:
        """Return the last layer's vectors of the first ``queries`` tokens, shape (n, queries, dim); None for all."""
        padding = genes == self.pad_id
        attended = ~padding[:, None, None, :] if bool(padding.any()) else None  # (n, 1, 1, length)
        *lower, last = cast("nn.ModuleList", self.transformer_encoder["layers"])
        for layer in lower:
            vectors = layer(vectors, attended)
        result: Tensor = last(vectors, attended, queries)
        return result

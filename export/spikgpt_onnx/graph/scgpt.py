"""Build scGPT's encoder, from tokens to a cell's vector: the network of :mod:`spikgpt.engines.scgpt.encoder`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from spikgpt.embedding.vocabulary import EncoderWeights
from spikgpt.engines import contract
from spikgpt.engines.numpy import NORM_EPSILON
from spikgpt.types import Floats
from spikgpt_onnx.graph.builder import Builder, Linear

# Largest value of a token; scGPT clips larger values to this one.
LARGEST_VALUE = 512


class CellEncoder:
    """Add scGPT's encoder to a graph."""

    def __init__(self, builder: Builder, encoder: EncoderWeights) -> None:
        self.builder, self.encoder, self.weights = builder, encoder, encoder.weights

    def vectors(self) -> str:
        """Add the network, from token inputs of shape (B, N) to vectors of unit length, shape (B, D)."""
        builder, add = self.builder, self.builder.add
        x = self._tokens()
        # Added to the scores of attention, -inf gives padding the weight exp(-inf) = 0.
        absent = add("Where", contract.MASK, builder.number(0.0), builder.number(-np.inf))  # (B, N)
        absent = add("Unsqueeze", absent, builder.integers(1, 2))  # (B, 1, 1, N)
        for index in range(self.encoder.layers):
            last = index == self.encoder.layers - 1
            x = self._layer(f"transformer_encoder.layers.{index}", x, absent, cls_alone=last)
        return builder.unit_length(add("Squeeze", x, builder.integers(1)))

    def _tokens(self) -> str:
        """Add the embedding of each token, shape (B, N, D): the sum of the embeddings of its gene and its value."""
        add, constant = self.builder.add, self.builder.constant
        # A gene's embedding depends only on its vocabulary index, a value's only on its bin, so both are tables.
        gene_table = _layer_norm(self.weights["encoder.embedding.weight"], self.weights, "encoder.enc_norm")
        bins = np.arange(self.encoder.lowest, self.encoder.vocabulary.n_bins + 1)
        values = np.minimum(bins, LARGEST_VALUE).astype(np.float64)[:, None]
        first, second = (
            (self._part(f"value_encoder.linear{n}.weight").T, self._part(f"value_encoder.linear{n}.bias"))
            for n in (1, 2)
        )
        hidden = np.maximum(values @ first[0] + first[1], 0) @ second[0] + second[1]
        value_table = _layer_norm(hidden, self.weights, "value_encoder.norm")
        row = add("Sub", contract.VALUES, constant("lowest value", self.encoder.lowest, np.int64))
        genes = add("Gather", constant("genes", gene_table), contract.TOKEN_IDS)  # (B, N, D)
        return add("Add", genes, add("Gather", constant("values of bins", value_table), row))

    def _layer(self, name: str, x: str, absent: str, *, cls_alone: bool) -> str:
        """Add a transformer layer, from shape (B, N, D) to the same, or to (B, 1, D) with ``cls_alone``."""
        builder, add = self.builder, self.builder.add
        size, heads = self.encoder.dim, self.encoder.heads
        by_head = builder.integers(0, 0, heads, size // heads)
        queried = x
        if cls_alone:
            queried = add("Slice", x, builder.integers(0), builder.integers(1), builder.integers(1))  # (B, 1, D)
        parts = []
        for order, tokens in enumerate((queried, x, x)):
            rows = slice(order * size, (order + 1) * size)
            parts.append(add("Reshape", self._dense(tokens, f"{name}.self_attn.in_proj", rows), by_head))
        query, key, value = parts  # each (B, N or 1, H, E)
        query = add("Transpose", query, perm=[0, 2, 1, 3])  # (B, H, N or 1, E)
        key = add("Transpose", key, perm=[0, 2, 3, 1])  # (B, H, E, N)
        value = add("Transpose", value, perm=[0, 2, 1, 3])  # (B, H, N, E)
        scores = add("Mul", add("MatMul", query, key), builder.number((size // heads) ** -0.5))
        attended = add("MatMul", add("Softmax", add("Add", scores, absent), axis=-1), value)  # (B, H, N or 1, E)
        attended = add("Reshape", add("Transpose", attended, perm=[0, 2, 1, 3]), builder.integers(0, 0, size))
        attended = self._dense(attended, f"{name}.self_attn.out_proj")  # (B, N or 1, D)
        mixed = self._normal(add("Add", queried, attended), f"{name}.norm1")
        inner = self._dense(add("Relu", self._dense(mixed, f"{name}.linear1")), f"{name}.linear2")
        return self._normal(add("Add", mixed, inner), f"{name}.norm2")

    def _part(self, name: str, rows: slice = slice(None)) -> npt.NDArray[np.float64]:
        return self.weights[name].astype(np.float64)[rows]

    def _dense(self, value: str, name: str, rows: slice = slice(None)) -> str:
        """Add a linear layer from shape (B, N, in) to (B, N, out); ``rows`` selects some of its outputs."""
        layer = Linear(f"{name} {rows.start or 0}", self._part(f"{name}.weight", rows))
        bias = self.builder.constant(f"{layer.name}.bias", self._part(f"{name}.bias", rows))
        # The bias is added separately, as Gemm takes matrices only.
        return self.builder.add("Add", self.builder.linear(value, layer), bias)

    def _normal(self, value: str, name: str) -> str:
        parts = [self.builder.constant(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.builder.add("LayerNormalization", value, *parts, axis=-1, epsilon=NORM_EPSILON)


def _layer_norm(rows: Floats, weights: Mapping[str, Floats], name: str) -> npt.NDArray[np.float64]:
    rows = rows.astype(np.float64)
    centred = rows - rows.mean(axis=1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + NORM_EPSILON)
    return np.asarray(normal * weights[f"{name}.weight"] + weights[f"{name}.bias"])

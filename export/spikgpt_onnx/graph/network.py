"""Build whole graphs, from their inputs to the label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.vocabulary import EncoderWeights
from spikgpt.engines import contract
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.types import Floats
from spikgpt_onnx.graph.builder import Builder
from spikgpt_onnx.graph.cells import expression
from spikgpt_onnx.graph.classifier import Classifier
from spikgpt_onnx.graph.scgpt import CellEncoder


@dataclass(frozen=True)
class Network:
    """Parts of a labelling graph: a classifier, and the projection from counts, or None for other inputs.

    ``weights`` are those of the classifier, named as in ``model.safetensors``, but without the prefix. Logits are
    divided by ``temperature``. ``metadata`` is stored in the graph.
    """

    config: SpikGPTConfig
    weights: Mapping[str, Floats]
    threshold: float
    temperature: float = 1.0
    projection: PCAProjection | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def labelling_graph(
    network: Network, precision: str = "fp32", *, encoder: EncoderWeights | None = None, literal: bool = False
) -> onnx.ModelProto:
    """Return the graph from counts to labels; if the network has no projection, from an embedding to labels.

    With ``encoder`` the graph starts from scGPT's tokens: encoder and classifier in one graph. With ``literal`` the
    graph keeps the paper's m copies of each cell. Such a graph is for comparison only, and hundreds of times slower.
    """
    builder, config = Builder(precision), network.config
    inputs = [_tensor(contract.THRESHOLD, [])]
    outputs = [
        _tensor(contract.PROBABILITIES, ["cells", config.n_labels]),
        _tensor(contract.CONFIDENCE, ["cells"]),
        _tensor(contract.ENERGY, ["cells"]),
        _tensor(contract.BEST_LABEL, ["cells"], TensorProto.INT64),
        _tensor(contract.LABEL, ["cells"], TensorProto.INT64),
    ]
    defaults: dict[str, Any] = {contract.THRESHOLD: network.threshold}
    counted = False
    if encoder is not None:
        inputs += _token_inputs()
        x = CellEncoder(builder, encoder).vectors()
    elif network.projection is not None:
        counted, size = True, len(network.projection.genes)
        inputs += [_tensor(contract.COUNTS, ["cells", size]), _tensor(contract.TOTAL, ["cells"])]
        scale = {contract.GENE_MEAN: network.projection.mean, contract.GENE_STD: network.projection.std}
        inputs += [_tensor(name, [size]) for name in (contract.FOUND, *scale)]
        defaults |= scale
        x = builder.add("Identity", expression(builder, network.projection), name=contract.VECTOR)
        outputs.append(_tensor(contract.VECTOR, ["cells", config.input_dim]))
    else:
        inputs.append(_tensor(contract.EMBEDDING, ["cells", config.input_dim]))
        x = contract.EMBEDDING
    logits = Classifier(builder, config, network.weights, literal=literal).logits(x)
    _decide(builder, logits, network.temperature, counted=counted)
    return builder.model(inputs, outputs, defaults, network.metadata)


def encoder_graph(encoder: EncoderWeights, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return the graph from scGPT's tokens to the embedding of a cell."""
    builder = Builder()
    builder.add("Identity", CellEncoder(builder, encoder).vectors(), name=contract.EMBEDDING)
    outputs = [_tensor(contract.EMBEDDING, ["cells", encoder.dim])]
    return builder.model(_token_inputs(), outputs, {}, {**metadata, "vocabulary": encoder.vocabulary.to_json()})


def _decide(builder: Builder, logits: str, temperature: float, *, counted: bool) -> None:
    """Add the outputs: energy, probabilities, confidence, best label, and the label or -1 for Unknown.

    In a graph that starts from counts (``counted``), a cell without counts is Unknown, with probabilities of 0.
    """
    add, number = builder.add, builder.number
    add("ReduceLogSumExp", logits, builder.integers(1), keepdims=0, name=contract.ENERGY)  # (B,)
    if temperature != 1:
        logits = add("Mul", logits, number(1 / temperature))  # (B, L)
    shares = add("Softmax", logits, axis=1, name=None if counted else contract.PROBABILITIES)  # (B, L)
    if counted:
        filled = builder.cast(add("Greater", contract.TOTAL, number(0.0)))  # (B,)
        shares = add("Mul", shares, add("Unsqueeze", filled, builder.integers(1)), name=contract.PROBABILITIES)
    confidence = add("ReduceMax", shares, builder.integers(1), keepdims=0, name=contract.CONFIDENCE)  # (B,)
    best = add("ArgMax", shares, axis=1, keepdims=0, name=contract.BEST_LABEL)  # (B,)
    rejected = add("Less", confidence, contract.THRESHOLD)
    if counted:
        rejected = add("Or", rejected, add("LessOrEqual", contract.TOTAL, number(0.0)))
    add("Where", rejected, builder.constant("unknown", -1, np.int64), best, name=contract.LABEL)


def _token_inputs() -> list[onnx.ValueInfoProto]:
    shape = ["cells", "tokens"]
    whole = [_tensor(name, shape, TensorProto.INT64) for name in (contract.TOKEN_IDS, contract.VALUES)]
    return [*whole, _tensor(contract.MASK, shape, TensorProto.BOOL)]


def _tensor(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)

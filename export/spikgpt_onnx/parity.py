"""Compare a graph with the trained model before export: the weights, and the labels of simulated cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.vocabulary import EncoderWeights
from spikgpt.engines import contract
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.read_graph import IR_VERSION, OPSET
from spikgpt.errors import ParityError
from spikgpt.reference.files import Reference

if TYPE_CHECKING:
    from spikgpt.engines.torch import TorchEngine

GOLDEN_CELLS = 2048
# float32 probabilities agree to rounding, unless a membrane potential is within rounding of the firing threshold.
# Rounding then adds or removes a spike. The probabilities of such a cell may differ by more, but its label and its
# Unknown decision may not. If the compared probabilities differ by at most the tolerance, either decision is accepted.
TOLERANCE, SHARE_WITHIN_TOLERANCE = 1e-5, 0.99
# For fp16 and int8: the least share of cells with the same label and the same Unknown decision. In every other cell,
# the two probabilities that the decision compares may differ by at most the margin.
SHARE_EQUAL, MARGIN = 0.999, 0.05
# Largest difference of a weight, relative to the largest weight of the layer: rounding to float32, float16 and 8 bits.
WEIGHT_TOLERANCE: dict[str, float] = {"fp32": 1e-6, "fp16": 1e-3, "int8": 1 / 127}


@dataclass(frozen=True)
class ExportableReference:
    """A reference, and its torch engine, which the graphs are compared with."""

    stored: Reference
    engine: TorchEngine


@dataclass(frozen=True)
class GraphParity:
    """Agreement of a graph in ONNX Runtime with the trained model in torch, float64, on golden cells.

    ``labels_equal`` and ``unknown_equal`` count cells with the same label and the same Unknown decision. A decision
    compares two probabilities, or a probability and the threshold. If the two differ by at most ``tolerance``, the
    decision counts as equal. For the other cells, ``largest_flip`` is the largest such difference. ``weights`` is the
    largest difference between a weight of the graph and the trained weight, relative to the largest weight of the
    layer.
    """

    precision: str
    opset: int
    ir_version: int
    cells: int
    labels_equal: int
    unknown_equal: int
    within_tolerance: int
    tolerance: float
    largest_difference: float
    largest_flip: float
    margin: float
    weights: float

    @property
    def passed(self) -> bool:
        """True if the graph may be published."""
        share = 1.0 if self.precision == "fp32" else SHARE_EQUAL
        return (
            min(self.labels_equal, self.unknown_equal) >= share * self.cells
            and (self.precision != "fp32" or self.within_tolerance >= SHARE_WITHIN_TOLERANCE * self.cells)
            and self.largest_flip <= self.margin
            and self.weights <= WEIGHT_TOLERANCE[self.precision]
        )

    def __str__(self) -> str:
        flipped = (
            f" (for the others, the compared probabilities differ by at most {self.largest_flip:.2g})"
            if self.largest_flip
            else ""
        )
        return (
            f"{self.precision}: of {self.cells} cells {self.labels_equal} have the same label and {self.unknown_equal} "
            f"the same Unknown decision{flipped}, probabilities differ by at most {self.largest_difference:.2g}, "
            f"weights by {self.weights:.2g}"
        )


@dataclass(frozen=True)
class Golden:
    """Simulated cells: inputs of the graph, and the vectors that the library computes, shape (n, dim)."""

    inputs: dict[str, npt.NDArray[Any]]
    vectors: npt.NDArray[np.float64]


def golden_cells(reference: ExportableReference, cells: int = GOLDEN_CELLS) -> Golden:
    """Simulate cells of the reference's labels; half of them are mixtures of two labels, some nearly Unknown."""
    random = np.random.default_rng(0)
    embedder = reference.engine.embedding
    if not isinstance(embedder, PCAProjection):
        vectors = random.standard_normal((cells, embedder.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Golden({contract.EMBEDDING: vectors}, vectors.astype(np.float64))
    first, second = random.integers(len(embedder.label_means), size=(2, cells))
    share = np.where(random.random(cells) < 0.5, 1.0, random.random(cells))[:, None]
    means, stds = (table.astype(np.float64) for table in (embedder.label_means, embedder.label_stds))
    logs = share * means[first] + (1 - share) * means[second]
    logs += random.standard_normal(logs.shape) * (share * stds[first] + (1 - share) * stds[second])
    total = np.exp(random.uniform(np.log(500), np.log(50_000), cells)).round()
    rate = np.expm1(np.maximum(logs, 0)) / embedder.target_sum
    counts = random.poisson(np.minimum(rate, 1) * total[:, None]).astype(np.float32)
    genes_found = np.ones(counts.shape[1])
    inputs = {contract.COUNTS: counts, contract.TOTAL: total, contract.FOUND: genes_found}
    return Golden(inputs, embedder.project(counts, total))


def check_parity(reference: ExportableReference, graph: onnx.ModelProto, precision: str, golden: Golden) -> GraphParity:
    """Return the agreement of a graph with the trained model; raise a ParityError if they disagree."""
    outputs = Session(graph.SerializeToString()).run(golden.inputs)
    parity = measure_parity(reference, golden.vectors, outputs, precision, weight_difference(reference, graph))
    if not parity.passed:
        msg = f"The graph disagrees with the trained model ({parity}). Nothing was written."
        raise ParityError(msg)
    return parity


def check_tokens(
    reference: ExportableReference, encoder: EncoderWeights, encoder_graph: bytes, combined: onnx.ModelProto
) -> GraphParity:
    """Compare the combined graph with the encoder's graph and the trained classifier, on random tokens."""
    random = np.random.default_rng(0)
    shape = (64, min(encoder.vocabulary.length, 100))
    lengths = random.integers(2, shape[1] + 1, size=(shape[0], 1))
    size = len(encoder.weights["encoder.embedding.weight"])
    tokens: dict[str, npt.NDArray[Any]] = {
        contract.TOKEN_IDS: random.integers(size, size=shape),
        contract.VALUES: random.integers(encoder.lowest, encoder.vocabulary.n_bins, size=shape),
        contract.MASK: np.arange(shape[1]) < lengths,
    }
    vectors = Session(encoder_graph).run(tokens)[contract.EMBEDDING].astype(np.float64)
    return check_parity(reference, combined, "fp32", Golden(tokens, vectors))


def weight_difference(reference: ExportableReference, graph: onnx.ModelProto) -> float:
    """Return the largest difference of graph weights from trained weights, relative to a layer's largest weight.

    Networks that were never trained agree on every cell, so equal labels alone prove little. The trained weights have
    their BatchNorms folded by the code of the torch engine, not by that of the graph.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    config = reference.stored.config
    largest = 0.0
    for name, weight in reference.engine.folded_weights().items():
        if not name.endswith(".weight"):
            continue
        layer = name.removesuffix(".weight").removesuffix(".linear")
        exported = [constants[f"{layer}.weight"].astype(np.float64)] if f"{layer}.weight" in constants else []
        if f"{layer}.weight.turned" in constants:
            exported.append(constants[f"{layer}.weight.turned"].astype(np.float64).T)
        if f"{layer}.weight.int8" in constants:
            exported.append(constants[f"{layer}.weight.int8"] * constants[f"{layer}.scale"].astype(np.float64))
        if not exported:
            msg = f"The graph has no weights of the layer {layer}. Nothing was written."
            raise ParityError(msg)
        # A layer of the graph may include the division by tau, with or without a change of sign, or by the time steps.
        divisors = (1, config.tau, -config.tau, config.time_steps)
        expected = [weight.astype(np.float64).T / divisor for divisor in divisors]
        differences = [
            min(np.abs(weights - trained).max() / np.abs(trained).max() for trained in expected) for weights in exported
        ]
        largest = max(largest, float(max(differences)))
    return largest


def measure_parity(
    reference: ExportableReference,
    vectors: npt.NDArray[np.float64],
    outputs: Mapping[str, npt.NDArray[Any]],
    precision: str,
    weights: float,
) -> GraphParity:
    """Compare the outputs of a graph with those of the trained model for vectors of cells, shape (n, dim)."""
    expected, threshold = reference.engine.classify(vectors)[0], reference.stored.thresholds.threshold
    confidence, best = expected.max(axis=1), outputs[contract.BEST_LABEL]
    lost, margin = confidence - expected[np.arange(len(best)), best], np.abs(confidence - threshold)
    other_label = (best != expected.argmax(axis=1)) & (lost > TOLERANCE)
    other_decision = ((outputs[contract.LABEL] == -1) != (confidence < threshold)) & (margin > TOLERANCE)
    # Even within rounding, a decision must follow from the graph's own probabilities.
    own_best, own_decision = _decisions(outputs[contract.PROBABILITIES], threshold)
    other_label |= best != own_best
    other_decision |= outputs[contract.LABEL] != own_decision
    flips = np.concatenate([lost[other_label], margin[other_decision]])
    difference = np.abs(outputs[contract.PROBABILITIES] - expected).max(axis=1)
    return GraphParity(
        precision=precision,
        opset=OPSET,
        ir_version=IR_VERSION,
        cells=len(expected),
        labels_equal=int((~other_label).sum()),
        unknown_equal=int((~other_decision).sum()),
        within_tolerance=int((difference <= TOLERANCE).sum()),
        tolerance=TOLERANCE,
        largest_difference=float(difference.max()),
        largest_flip=float(flips.max()) if flips.size else 0.0,
        margin=MARGIN,
        weights=weights,
    )


def _decisions(
    probabilities: npt.NDArray[Any], threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the most probable label of each cell, and this label or -1 for Unknown, both of shape (n,)."""
    best = probabilities.argmax(axis=1)
    return best, np.where(probabilities.max(axis=1) < np.float32(threshold), -1, best)

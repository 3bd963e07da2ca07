"""From a trained reference to ONNX graphs that provably give the same labels."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.vocabulary import Encoder
from spikgpt.errors import ConfigError, ParityError
from spikgpt.files import replacing
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.thresholds import Thresholds
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.layout import (
    COMBINED,
    ENCODER,
    FORMAT_VERSION,
    GRAPHS,
    PARITY,
    check_writable,
    dumped,
    graph_sources,
    verified_files,
    write_files,
)
from spikgpt.version import __version__
from spikgpt_onnx import contract
from spikgpt_onnx.graph import IR_VERSION, OPSET, Network, encoder_graph, labelling_graph
from spikgpt_onnx.session import Session

GOLDEN_CELLS = 2048
# float32 probabilities agree to rounding unless a membrane potential is within rounding of the firing threshold. Such a
# cell gets a spike more or less; it may differ by more, as long as its label and its Unknown decision do not.
TOLERANCE, SHARE_WITHIN_TOLERANCE = 1e-5, 0.99
# Of the other precisions: the share of cells whose label and Unknown decision must stay, and how far those of the rest
# may have been from the other decision, as a difference of two probabilities.
SHARE_EQUAL, MARGIN = 0.999, 0.05
# Of the weights in a graph, relative to the largest of the layer: rounding to float32, float16 and 8 bits.
WEIGHT_TOLERANCE: dict[str, float] = {"fp32": 1e-6, "fp16": 1e-3, "int8": 1 / 127}

Floats = npt.NDArray[np.floating[Any]]


@runtime_checkable
class EncoderSource(Protocol):
    """An embedder that is a network of its own."""

    def encoder(self) -> Encoder:
        """Return that network."""


class Trained(Protocol):
    """What is exported: :class:`spikgpt.training.reference.Reference` offers it."""

    @property
    def name(self) -> str:
        """Name of the reference."""

    @property
    def origin(self) -> str | None:
        """Repository and commit that it was pulled from."""

    @property
    def labels(self) -> LabelMap:
        """Its labels."""

    @property
    def thresholds(self) -> Thresholds:
        """When a cell is Unknown."""

    @property
    def embedder(self) -> Any:
        """A :class:`PCAProjection`, an :class:`EncoderSource`, or an embedding that the user brings."""

    @property
    def config(self) -> SpikGPTConfig:
        """Shape and neurons of the classifier."""

    def files(self, onnx: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
        """Return every file of the reference, with its graphs, by name."""

    def weights(self) -> dict[str, Floats]:
        """Return the weights of the classifier by name."""

    def folded_weights(self) -> dict[str, Floats]:
        """Return the same with every BatchNorm folded, by the trained network's own code."""

    def probabilities(self, vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Classify embedded cells, (n, dim) to (n, labels), in float64."""


@dataclass(frozen=True)
class Parity:
    """Agreement of a graph in ONNX Runtime with the trained model in torch, float64, on golden cells.

    ``largest_flip`` is how far a cell with another label or Unknown decision was from it, as a difference of
    probabilities; ``weights`` is the largest difference between a weight of the graph and the trained one, relative to
    the largest weight of the layer.
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
        """Whether the graph may be published."""
        share = 1.0 if self.precision == "fp32" else SHARE_EQUAL
        return (
            min(self.labels_equal, self.unknown_equal) >= share * self.cells
            and (self.precision != "fp32" or self.within_tolerance >= SHARE_WITHIN_TOLERANCE * self.cells)
            and self.largest_flip <= self.margin
            and self.weights <= WEIGHT_TOLERANCE[self.precision]
        )

    def __str__(self) -> str:
        return (
            f"{self.precision}: of {self.cells} cells {self.labels_equal} have the same label and {self.unknown_equal} "
            f"the same Unknown decision, flipped ones were within {self.largest_flip:.2g} of it, probabilities differ "
            f"by at most {self.largest_difference:.2g}, weights by {self.weights:.2g}"
        )


def export(reference: Trained, folder: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict[str, Parity]:
    """Write a reference with its graphs and their parity report, all of it or nothing.

    Parameters
    ----------
    folder
        A folder that does not exist yet, or one that holds this reference or an earlier export, which is replaced.
    precisions
        ``fp32``, ``fp16`` for GPUs, ``int8`` for CPUs; a graph of each.

    Returns
    -------
    The agreement of each graph with the trained model, by file name.

    Raises
    ------
    ConfigError
        When the folder holds something else, or there is no such precision.
    ParityError
        When a graph disagrees with the trained model. Nothing is written then.
    """
    if not precisions or not set(precisions) <= GRAPHS.keys():
        msg = f"Found the precisions {', '.join(precisions) or 'none'}; choose from {', '.join(GRAPHS)}."
        raise ConfigError(msg)
    folder = Path(folder)
    bare = reference.files()
    here = folder / "model.safetensors"
    same = here.is_file() and here.read_bytes() == bare["model.safetensors"]
    check_writable(folder, overwrite=same or (folder / PARITY).is_file())
    network = network_of(reference)
    graphs: dict[str, bytes] = {}
    reports: dict[str, Parity] = {}
    golden = golden_cells(reference)
    for precision in precisions:
        graph = labelling_graph(network, precision)
        reports[GRAPHS[precision]] = check_parity(reference, graph, precision, golden)
        graphs[GRAPHS[precision]] = graph.SerializeToString()
    if network.encoder is not None:
        graphs[ENCODER] = encoder_graph(network).SerializeToString()
        combined = labelling_graph(network, tokens=True)
        graphs[COMBINED] = combined.SerializeToString()
        reports[COMBINED] = check_tokens(reference, network.encoder, graphs[ENCODER], combined)
    report = {
        "made_from": graph_sources(bare),
        "graphs": {
            name: {"sha256": hashlib.sha256(content).hexdigest()} | (asdict(reports[name]) if name in reports else {})
            for name, content in graphs.items()
        },
    }
    files = reference.files(graphs | {PARITY: dumped(report)})
    with tempfile.TemporaryDirectory() as temporary:
        # As users will load it: manifest, hashes and what the graph carries are checked once more.
        trial = verified_files(write_files(files, Path(temporary) / "trial"))
        for name in graphs:
            Session.of(trial, name)
    write_files(files, folder)
    return reports


def check_again(reference: Trained, files: Mapping[str, bytes]) -> dict[str, Parity]:
    """Hold the graphs of a reference, whose files were verified, against the trained model once more.

    Raises
    ------
    DamagedReference
        When a graph carries other labels, thresholds or genes than the files beside it.
    GraphError
        When a graph cannot be run.
    ParityError
        When a graph disagrees with the trained model.
    """
    golden = golden_cells(reference)
    reports = {}
    for precision, name in GRAPHS.items():
        if name in files:
            Session.of(files, name)
            reports[name] = check_parity(reference, onnx.load_from_string(files[name]), precision, golden)
    return reports


def export_literal(reference: Trained, path: str | Path) -> None:
    """Write one graph with the paper's m copies, for comparison; it is no part of a reference."""
    graph = labelling_graph(network_of(reference), literal=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def network_of(reference: Trained) -> Network:
    """Return what the graphs of a reference are made of."""
    embedder = reference.embedder
    genes = embedder.genes or GeneList((), ())
    return Network(
        config=reference.config,
        weights=reference.weights(),
        threshold=reference.thresholds.threshold,
        temperature=reference.thresholds.temperature,
        projection=embedder if isinstance(embedder, PCAProjection) else None,
        encoder=embedder.encoder() if isinstance(embedder, EncoderSource) else None,
        metadata={
            "format_version": str(FORMAT_VERSION),
            "spikgpt_version": __version__,
            "reference": reference.name,
            "revision": reference.origin or "",
            "labels": json.dumps(reference.labels.to_list()),
            "thresholds": json.dumps(msgspec.to_builtins(reference.thresholds)),
            "genes_sha256": genes.sha256,
        },
    )


@dataclass(frozen=True)
class Golden:
    """Made-up cells: inputs of the graph, and the same cells embedded by the library, shape (n, dim)."""

    inputs: dict[str, npt.NDArray[Any]]
    vectors: npt.NDArray[np.float64]


def golden_cells(reference: Trained, cells: int = GOLDEN_CELLS) -> Golden:
    """Return cells like those of the reference, half of them between two labels, so that some are nearly Unknown."""
    random = np.random.default_rng(0)
    embedder = reference.embedder
    if not isinstance(embedder, PCAProjection):
        vectors = random.standard_normal((cells, embedder.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Golden({contract.EMBEDDING: vectors}, vectors.astype(np.float64))
    one, other = random.integers(len(embedder.label_means), size=(2, cells))
    share = np.where(random.random(cells) < 0.5, 1.0, random.random(cells))[:, None]
    means, stds = (table.astype(np.float64) for table in (embedder.label_means, embedder.label_stds))
    logs = share * means[one] + (1 - share) * means[other]
    logs += random.standard_normal(logs.shape) * (share * stds[one] + (1 - share) * stds[other])
    total = np.exp(random.uniform(np.log(500), np.log(50_000), cells)).round()
    rate = np.expm1(np.maximum(logs, 0)) / embedder.target_sum
    counts = random.poisson(np.minimum(rate, 1) * total[:, None]).astype(np.float32)
    found = np.ones(counts.shape[1])
    inputs = {contract.COUNTS: counts, contract.TOTAL: total, contract.FOUND: found}
    return Golden(inputs, embedder.project(counts, total))


def check_parity(reference: Trained, graph: onnx.ModelProto, precision: str, golden: Golden) -> Parity:
    """Hold a graph against the trained model: its weights, and what it says of golden cells.

    Raises
    ------
    ParityError
        When it may not be published.
    """
    outputs = Session(graph.SerializeToString()).run(golden.inputs)
    weights = weight_difference(reference, graph)
    return _passed(_parity(reference, reference.probabilities(golden.vectors), outputs, precision, weights))


def check_tokens(reference: Trained, encoder: Encoder, separate: bytes, combined: onnx.ModelProto) -> Parity:
    """Hold the combined graph against the encoder's and the trained classifier, on random tokens.

    Raises
    ------
    ParityError
        When it may not be published.
    """
    random = np.random.default_rng(0)
    shape = (64, min(encoder.vocabulary.length, 100))
    lengths = random.integers(2, shape[1] + 1, size=(shape[0], 1))
    size = len(encoder.weights["encoder.embedding.weight"])
    tokens: dict[str, npt.NDArray[Any]] = {
        contract.TOKEN_IDS: random.integers(size, size=shape),
        contract.VALUES: random.integers(encoder.lowest, encoder.vocabulary.n_bins, size=shape),
        contract.MASK: np.arange(shape[1]) < lengths,
    }
    vectors = Session(separate).run(tokens)[contract.EMBEDDING].astype(np.float64)
    outputs = Session(combined.SerializeToString()).run(tokens)
    weights = weight_difference(reference, combined)
    return _passed(_parity(reference, reference.probabilities(vectors), outputs, "fp32", weights))


def weight_difference(reference: Trained, graph: onnx.ModelProto) -> float:
    """Return the largest difference between a weight in the graph and the trained one, relative to the layer's.

    Two networks that were never trained agree on every cell; so the weights themselves are compared, with those that
    the trained network folds by its own code.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    config = reference.config
    largest = 0.0
    for name, weight in reference.folded_weights().items():
        if not name.endswith(".weight"):
            continue
        layer = name.removesuffix(".weight").removesuffix(".linear")
        found = [constants[f"{layer}.weight"].astype(np.float64)] if f"{layer}.weight" in constants else []
        if f"{layer}.weight.turned" in constants:
            found.append(constants[f"{layer}.weight.turned"].astype(np.float64).T)
        if f"{layer}.weight.int8" in constants:
            found.append(constants[f"{layer}.weight.int8"] * constants[f"{layer}.scale"].astype(np.float64))
        if not found:
            msg = f"The graph has no weights of the layer {layer}. Nothing was written."
            raise ParityError(msg)
        # In the graph a layer may carry the division by tau, with the sign turned round, or by the number of steps.
        divisors = (1, config.tau, -config.tau, config.time_steps)
        expected = [weight.astype(np.float64).T / divisor for divisor in divisors]
        differences = [min(np.abs(one - other).max() / np.abs(other).max() for other in expected) for one in found]
        largest = max(largest, float(max(differences)))
    return largest


def _parity(
    reference: Trained,
    expected: npt.NDArray[np.float64],
    outputs: Mapping[str, npt.NDArray[Any]],
    precision: str,
    weights: float,
) -> Parity:
    """Compare what a graph says of some cells with what the trained model says, shape (n, labels)."""
    threshold = reference.thresholds.threshold
    confidence = expected.max(axis=1)
    best, unknown = expected.argmax(axis=1), confidence < threshold
    other_label = outputs[contract.BEST_LABEL] != best
    other_decision = (outputs[contract.LABEL] == -1) != unknown
    given_up = confidence - expected[np.arange(len(best)), outputs[contract.BEST_LABEL]]
    flips = np.concatenate([given_up[other_label], np.abs(confidence - threshold)[other_decision]])
    difference = np.abs(outputs[contract.PROBABILITIES] - expected).max(axis=1)
    return Parity(
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


def _passed(parity: Parity) -> Parity:
    """Return the report, or refuse it."""
    if not parity.passed:
        msg = f"The graph disagrees with the trained model ({parity}). Nothing was written."
        raise ParityError(msg)
    return parity

"""Build a graph again from the weights of its reference, and compare it with the stored graph byte for byte.

The comparison detects any change of a stored graph. If another version of this library built the graph differently, the
graph of this version replaces the stored graph.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import msgspec
import onnx

from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.stored import stored_embedding
from spikgpt.embedding.vocabulary import EncoderWeights
from spikgpt.engines.read_graph import read_graph
from spikgpt.errors import DamagedReference
from spikgpt.reference import format as reference_format
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference
from spikgpt.reference.format import COMBINED, ENCODER, PRECISIONS
from spikgpt.version import __version__
from spikgpt_onnx.graph import Network, encoder_graph, labelling_graph

# Metadata on the origin of a graph, each with a regular expression for its values. The origin has no effect on
# labels, so the stored values are accepted. All other metadata is compared.
ORIGIN = {"format_version": r"[1-9]\d{0,3}", "spikgpt_version": r"[\w.+!-]{1,50}", "revision": r"[\w./@-]{0,300}"}


@dataclass(frozen=True)
class RebuiltGraph:
    """A graph built by this version; ``mismatch`` is the reason why the stored graph differs, or empty."""

    content: bytes
    mismatch: str = ""


def network_from_reference(reference: Reference) -> Network:
    """Return the network that the graphs of a reference are built from."""
    embedding = None
    if reference.embedder["kind"] == "pca":
        tensors, genes = reference.part(EMBEDDER), reference.genes
        embedding = stored_embedding(reference.embedder, tensors, genes, reference.more_genes)
    return Network(
        config=reference.config,
        weights=reference.part(CLASSIFIER),
        threshold=reference.thresholds.threshold,
        temperature=reference.thresholds.temperature,
        projection=embedding if isinstance(embedding, PCAProjection) else None,
        metadata={
            "format_version": str(reference_format.FORMAT_VERSION),
            "spikgpt_version": __version__,
            "reference": reference.name,
            "revision": reference.origin or "",
            "labels": json.dumps(reference.labels.to_list()),
            "thresholds": json.dumps(msgspec.to_builtins(reference.thresholds)),
            "genes_sha256": reference.genes.sha256,
        },
    )


def build_graph(network: Network, name: str, encoder: EncoderWeights | None = None) -> onnx.ModelProto:
    """Return a graph by the name of its file; graphs that start from tokens need scGPT's ``encoder``."""
    if name not in (ENCODER, COMBINED):
        return labelling_graph(network, PRECISIONS[name])
    assert encoder is not None
    if name == ENCODER:
        return encoder_graph(encoder, network.metadata)
    return labelling_graph(network, encoder=encoder)


def rebuild_graph(reference: Reference, name: str, encoder: EncoderWeights | None = None) -> RebuiltGraph:
    """Build a graph of a reference again, and compare the stored graph with it.

    Raises
    ------
    GraphError
        When the stored graph holds an operator or a tensor that is not allowed.
    DamagedReference
        When weights, labels, thresholds or genes of the graph differ from the files, or when the stored graph
        states this version, but differs in any byte.
    """
    content = reference.files[name]
    stored, network = read_graph(content, name), network_from_reference(reference)
    metadata = {entry.key: entry.value for entry in stored.metadata_props}
    origin = {key: metadata[key] for key, form in ORIGIN.items() if re.fullmatch(form, metadata.get(key, ""))}
    network = replace(network, metadata={**network.metadata, **origin})
    built = build_graph(network, name, encoder)
    if (expected := built.SerializeToString()) == content:
        return RebuiltGraph(content)
    version = metadata.get("spikgpt_version", "")
    problem = ""
    if differing := sorted(entry.key for entry in built.metadata_props if metadata.get(entry.key) != entry.value):
        problem = f"{name} has other {' and '.join(differing)} than the other files of the reference"
    elif differing := _other_weights(stored, built):
        problem = f"{name} has other weights than model.safetensors, such as {differing[0]!r}"
    elif version == __version__:
        problem = f"{name} is not the graph that spikgpt {__version__}, its stated version, makes of these weights"
    if problem:
        msg = (
            f"{problem}. Do not use this graph: get the reference again. Or, if you trust the other files, make its "
            "graphs anew with: spikgpt export FOLDER --out FOLDER"
        )
        raise DamagedReference(msg)
    return RebuiltGraph(expected, f"was made by spikgpt {version}, and differs from the graph of spikgpt {__version__}")


def _other_weights(stored: onnx.ModelProto, built: onnx.ModelProto) -> list[str]:
    """Return the names of the constants that both graphs have with different values."""
    expected = {tensor.name: tensor for tensor in built.graph.initializer}
    return [tensor.name for tensor in stored.graph.initializer if expected.get(tensor.name, tensor) != tensor]

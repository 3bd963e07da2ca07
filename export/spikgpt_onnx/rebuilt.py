"""Graphs made once more from the weights beside them: a stored graph is what it should be if it has the same bytes.

A graph is a function of the other files of its reference, so nothing about it has to be believed. Whatever was done to
one, down to the last bit of a weight, shows; and where a graph was made by another version of this library, in another
way, the one that is made here can take its place.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import msgspec
import onnx

from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.stored import stored_embedding
from spikgpt.embedding.vocabulary import Encoder
from spikgpt.errors import DamagedReference
from spikgpt.reference import layout
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference
from spikgpt.reference.layout import COMBINED, ENCODER, PRECISIONS
from spikgpt.types import Floats
from spikgpt.version import __version__
from spikgpt_onnx.graph import Network, encoder_graph, labelling_graph
from spikgpt_onnx.reading import read

# What the metadata says of where and when the graph was made: of no effect, and taken as it stands where it has such a
# form. Everything else is compared.
FREE = {"format_version": r"[1-9]\d{0,3}", "spikgpt_version": r"[\w.+!-]{1,50}", "revision": r"[\w./@-]{0,300}"}
EXPORT = "Make its graphs anew with: spikgpt export FOLDER --out FOLDER"


@dataclass(frozen=True)
class Rebuilt:
    """A graph as this version makes it of the weights, and why the stored one has other bytes, if it has."""

    content: bytes
    otherwise: str = ""


def network_of(stored: Reference, weights: dict[str, Floats] | None = None) -> Network:
    """Return what the graphs of a reference are made of; ``weights`` in place of the classifier's are for tests."""
    embedding = None
    if stored.embedder["kind"] == "pca":
        embedding = stored_embedding(stored.embedder, stored.part(EMBEDDER), stored.genes, stored.more_genes)
    return Network(
        config=stored.config,
        weights=stored.part(CLASSIFIER) if weights is None else weights,
        threshold=stored.thresholds.threshold,
        temperature=stored.thresholds.temperature,
        projection=embedding if isinstance(embedding, PCAProjection) else None,
        metadata={
            "format_version": str(layout.FORMAT_VERSION),
            "spikgpt_version": __version__,
            "reference": stored.name,
            "revision": stored.origin or "",
            "labels": json.dumps(stored.labels.to_list()),
            "thresholds": json.dumps(msgspec.to_builtins(stored.thresholds)),
            "genes_sha256": stored.genes.sha256,
        },
    )


def graph_of(network: Network, name: str, encoder: Encoder | None = None) -> onnx.ModelProto:
    """Return a graph by the name of its file; those that start from tokens need scGPT's ``encoder``."""
    if name not in (ENCODER, COMBINED):
        return labelling_graph(network, PRECISIONS[name])
    assert encoder is not None
    if name == ENCODER:
        return encoder_graph(encoder, network.metadata)
    return labelling_graph(network, encoder=encoder)


def rebuilt(reference: Reference, name: str, encoder: Encoder | None = None) -> Rebuilt:
    """Make a graph of a reference once more and hold the stored one against it.

    Raises
    ------
    GraphError
        When the stored one holds what no graph may.
    DamagedReference
        When its weights, labels, thresholds or genes are others; or it differs at all though it is of this version.
    """
    content = reference.files[name]
    stored, network = read(content, name), network_of(reference)
    found = {entry.key: entry.value for entry in stored.metadata_props}
    free = {key: found[key] for key, form in FREE.items() if re.fullmatch(form, found.get(key, ""))}
    network = replace(network, metadata={**network.metadata, **free})
    made = graph_of(network, name, encoder)
    if (expected := made.SerializeToString()) == content:
        return Rebuilt(content)
    wanted = {entry.key: entry.value for entry in made.metadata_props}
    if wrong := sorted(key for key in wanted if found.get(key) != wanted[key]):
        _refuse(f"{name} carries other {' and '.join(wrong)} than the files beside it")
    if wrong := _other_weights(stored, made):
        _refuse(f"{name} has other weights than model.safetensors, such as {wrong[0]!r}")
    if found["spikgpt_version"] == __version__:
        _refuse(f"{name} is not the graph that spikgpt {__version__}, which it names, makes of these weights")
    by = found["spikgpt_version"]
    return Rebuilt(expected, f"was made by spikgpt {by}, in another way than spikgpt {__version__} makes it")


def _other_weights(stored: onnx.ModelProto, made: onnx.ModelProto) -> list[str]:
    """Return the constants that both graphs have, but not with the same values."""
    expected = {tensor.name: tensor for tensor in made.graph.initializer}
    return [tensor.name for tensor in stored.graph.initializer if expected.get(tensor.name, tensor) != tensor]


def _refuse(found: str) -> None:
    msg = f"{found}. Do not use it: get the reference again. Or, if you trust the rest of it: {EXPORT}"
    raise DamagedReference(msg)

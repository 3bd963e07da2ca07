"""From a trained reference to ONNX graphs that provably give the same labels."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import onnx

from spikgpt.embedding.pca import PCAProjection
from spikgpt.errors import ConfigError
from spikgpt.files import replacing
from spikgpt.reference import layout
from spikgpt.reference.files import with_graphs
from spikgpt.reference.json_files import dumped
from spikgpt.reference.layout import COMBINED, ENCODER, GRAPHS, PARITY, verified_files, write_files
from spikgpt.version import __version__
from spikgpt_onnx.graph import Network, encoder_graph, labelling_graph
from spikgpt_onnx.parity import ExportableReference, Parity, check_parity, check_tokens, golden_cells
from spikgpt_onnx.session import Session


def export(
    reference: ExportableReference, folder: str | Path, *, precisions: Sequence[str] = ("fp32",)
) -> dict[str, Parity]:
    """Write a reference with a graph of each precision and their parity report, all of it or nothing.

    ``folder`` does not exist yet, or holds this reference or an earlier export, which is replaced. A graph that
    disagrees with the trained model is a ParityError, and nothing is written then.

    Returns
    -------
    The agreement of each graph with the trained model, by file name.
    """
    if not precisions or not set(precisions) <= GRAPHS.keys():
        msg = f"Found the precisions {', '.join(precisions) or 'none'}; choose from {', '.join(GRAPHS)}."
        raise ConfigError(msg)
    folder = Path(folder)
    here, bare = folder / "model.safetensors", reference.files.files
    same = here.is_file() and here.read_bytes() == bare["model.safetensors"]
    layout.check_writable(folder, overwrite=same or (folder / PARITY).is_file())
    graphs, reports = _checked_graphs(reference, precisions)
    report = {
        "made_from": layout.graph_sources(bare),
        "graphs": {
            name: {"sha256": hashlib.sha256(content).hexdigest()} | (asdict(reports[name]) if name in reports else {})
            for name, content in graphs.items()
        },
    }
    files = with_graphs(reference.files, graphs | {PARITY: dumped(report)})
    with tempfile.TemporaryDirectory() as temporary:
        # As users will load it: manifest, hashes and what the graph carries are checked once more.
        trial = verified_files(write_files(files, Path(temporary) / "trial"))
        for name in graphs:
            Session.of(trial, name)
    write_files(files, folder)
    return reports


def check_again(reference: ExportableReference, files: Mapping[str, bytes]) -> dict[str, Parity]:
    """Hold the graphs of a reference, whose files were verified, against them and against the trained model again."""
    golden = golden_cells(reference)
    reports = {}
    for precision, name in GRAPHS.items():
        if name in files:
            Session.of(files, name)
            reports[name] = check_parity(reference, onnx.load_from_string(files[name]), precision, golden)
    return reports


def export_literal(reference: ExportableReference, path: str | Path) -> None:
    """Write one graph with the paper's m copies, for comparison; it is no part of a reference."""
    graph = labelling_graph(network_of(reference), literal=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def network_of(reference: ExportableReference) -> Network:
    """Return what the graphs of a reference are made of."""
    stored, embedding = reference.files, reference.engine.embedding
    return Network(
        config=stored.config,
        weights=reference.engine.weights(),
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
            "genes_sha256": embedding.stored_genes.sha256,
        },
    )


def _checked_graphs(
    reference: ExportableReference, precisions: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, Parity]]:
    """Return the graphs of a reference, and how far each agrees with the trained model, by file name."""
    network, golden = network_of(reference), golden_cells(reference)
    graphs, reports = {}, {}
    for precision in precisions:
        name, graph = GRAPHS[precision], labelling_graph(network, precision)
        reports[name] = check_parity(reference, graph, precision, golden)
        graphs[name] = graph.SerializeToString()
    if reference.engine.source is not None:
        encoder = reference.engine.source.encoder()
        graphs[ENCODER] = encoder_graph(encoder, network.metadata).SerializeToString()
        combined = labelling_graph(network, encoder=encoder)
        reports[COMBINED] = check_tokens(reference, encoder, graphs[ENCODER], combined)
        graphs[COMBINED] = combined.SerializeToString()
    return graphs, reports

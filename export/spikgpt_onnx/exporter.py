"""Export a reference to ONNX graphs that are checked against the trained model."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from spikgpt.engines.onnx_session import Session
from spikgpt.engines.read_graph import read_graph
from spikgpt.engines.verified_graphs import mark_verified
from spikgpt.errors import ConfigError
from spikgpt.files import replacing
from spikgpt.reference import format as reference_format
from spikgpt.reference.files import Reference, with_graphs
from spikgpt.reference.format import COMBINED, ENCODER, GRAPHS, PARITY, PRECISIONS, verified_files, write_files
from spikgpt.reference.json_files import dumped
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.parity import ExportableReference, GraphParity, check_parity, check_tokens, golden_cells
from spikgpt_onnx.rebuild_graph import build_graph, network_from_reference, rebuild_graph

if TYPE_CHECKING:
    from spikgpt.engines.torch import TorchEngine


def export(
    reference: ExportableReference, folder: str | Path, *, precisions: Sequence[str] = ("fp32",)
) -> dict[str, GraphParity]:
    """Write a reference with a graph of each precision and their parity report: all files or none.

    ``folder`` does not exist yet, or holds this reference or an earlier export, which is replaced. A graph that
    disagrees with the trained model raises a ParityError.

    Returns
    -------
    The agreement of each graph with the trained model, by file name.
    """
    if not precisions or not set(precisions) <= GRAPHS.keys():
        msg = f"Found the precisions {', '.join(precisions) or 'none'}; choose from {', '.join(GRAPHS)}."
        raise ConfigError(msg)
    folder = Path(folder)
    present, bare = folder / "model.safetensors", reference.stored.files
    same = present.is_file() and present.read_bytes() == bare["model.safetensors"]
    reference_format.check_writable(folder, overwrite=same or (folder / PARITY).is_file())
    graphs, parities = checked_graphs(reference, precisions)
    report = {
        "made_from": reference_format.graph_sources(bare),
        "graphs": {
            name: {"sha256": hashlib.sha256(content).hexdigest()} | (asdict(parities[name]) if name in parities else {})
            for name, content in graphs.items()
        },
    }
    files = with_graphs(reference.stored, graphs | {PARITY: dumped(report)})
    with tempfile.TemporaryDirectory() as temporary:
        # Load the written files as users do; this checks manifest, hashes and metadata.
        trial = verified_files(write_files(files, Path(temporary) / "trial"))
        for name in graphs:
            Session.from_files(trial, name)
    write_files(files, folder)
    return parities


def verify_graphs(stored: Reference, engine: TorchEngine | None = None) -> dict[str, str]:
    """Compare the graphs of a reference with its weights, and with the trained model if its ``engine`` is given.

    Returns
    -------
    The result in words, by file name; a difference raises an error.
    """
    reference = ExportableReference(stored, engine) if engine else None
    encoder = engine.source.encoder() if engine and engine.source else None
    golden, results = golden_cells(reference) if reference else None, {}
    for name in (name for name in stored.files if name.endswith(".onnx")):
        if name in (ENCODER, COMBINED) and encoder is None:
            read_graph(stored.files[name], name)
            results[name] = "has allowed operators only; not compared with scGPT's weights, which are not here"
            continue
        rebuilt = rebuild_graph(stored, name, encoder)
        results[name] = rebuilt.mismatch or "equals the graph of the weights, byte for byte"
        if not rebuilt.mismatch:
            mark_verified(stored, name)
        if reference and golden and name in PRECISIONS:
            graph = onnx.load_from_string(stored.files[name])
            results[name] += f"; {check_parity(reference, graph, PRECISIONS[name], golden)}"
    return results


def export_literal(reference: ExportableReference, path: str | Path) -> None:
    """Write a graph with the paper's m copies to a file, for comparison; the graph is not added to a reference."""
    graph = labelling_graph(network_from_reference(reference.stored), literal=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def checked_graphs(
    reference: ExportableReference, precisions: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, GraphParity]]:
    """Return the graphs of a reference and the agreement of each with the trained model, by file name."""
    network, golden = network_from_reference(reference.stored), golden_cells(reference)
    graphs, parities = {}, {}
    for precision in precisions:
        name = GRAPHS[precision]
        graph = build_graph(network, name)
        parities[name] = check_parity(reference, graph, precision, golden)
        graphs[name] = graph.SerializeToString()
    if reference.engine.source is not None:
        encoder = reference.engine.source.encoder()
        graphs[ENCODER] = build_graph(network, ENCODER, encoder).SerializeToString()
        combined = build_graph(network, COMBINED, encoder)
        parities[COMBINED] = check_tokens(reference, encoder, graphs[ENCODER], combined)
        graphs[COMBINED] = combined.SerializeToString()
    return graphs, parities

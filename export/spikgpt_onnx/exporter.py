"""From a trained reference to ONNX graphs that provably give the same labels."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from spikgpt.errors import ConfigError
from spikgpt.files import replacing
from spikgpt.reference import layout
from spikgpt.reference.files import Reference, with_graphs
from spikgpt.reference.json_files import dumped
from spikgpt.reference.layout import COMBINED, ENCODER, GRAPHS, PARITY, PRECISIONS, verified_files, write_files
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.known import remember
from spikgpt_onnx.parity import ExportableReference, Parity, check_parity, check_tokens, golden_cells
from spikgpt_onnx.reading import read
from spikgpt_onnx.rebuilt import graph_of, network_of, rebuilt
from spikgpt_onnx.session import Session

if TYPE_CHECKING:
    from spikgpt.engines.torch import TorchEngine


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


def check_again(stored: Reference, engine: TorchEngine | None = None) -> dict[str, str]:
    """Hold the graphs of a reference against its weights, and against the trained model where it can be run.

    Returns
    -------
    What was found, by file name; anything wrong is an error.
    """
    reference = ExportableReference(stored, engine) if engine else None
    encoder = engine.source.encoder() if engine and engine.source else None
    golden, found = golden_cells(reference) if reference else None, {}
    for name in (name for name in stored.files if name.endswith(".onnx")):
        if name in (ENCODER, COMBINED) and encoder is None:
            read(stored.files[name], name)
            found[name] = "holds what our graphs hold; not compared with scGPT's weights, which are not here"
            continue
        made = rebuilt(stored, name, encoder)
        found[name] = made.otherwise or "is what the weights make, byte for byte"
        if not made.otherwise:
            remember(stored, name)
        if reference and golden and name in PRECISIONS:
            graph = onnx.load_from_string(stored.files[name])
            parity = check_parity(reference, graph, PRECISIONS[name], golden)
            found[name] += f"; {parity}"
    return found


def export_literal(reference: ExportableReference, path: str | Path) -> None:
    """Write one graph with the paper's m copies, for comparison; it is no part of a reference."""
    graph = labelling_graph(network_of(reference.files), literal=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def _checked_graphs(
    reference: ExportableReference, precisions: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, Parity]]:
    """Return the graphs of a reference, and how far each agrees with the trained model, by file name."""
    network, golden = network_of(reference.files), golden_cells(reference)
    graphs, reports = {}, {}
    for precision in precisions:
        name = GRAPHS[precision]
        graph = graph_of(network, name)
        reports[name] = check_parity(reference, graph, precision, golden)
        graphs[name] = graph.SerializeToString()
    if reference.engine.source is not None:
        encoder = reference.engine.source.encoder()
        graphs[ENCODER] = graph_of(network, ENCODER, encoder).SerializeToString()
        combined = graph_of(network, COMBINED, encoder)
        reports[COMBINED] = check_tokens(reference, encoder, graphs[ENCODER], combined)
        graphs[COMBINED] = combined.SerializeToString()
    return graphs, reports

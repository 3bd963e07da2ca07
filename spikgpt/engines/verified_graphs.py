"""Open graphs that were compared with the weights of their reference.

Building a graph again takes some tenths of a second. So the cache folder holds an empty file for each verified graph.
The name of this file is a digest of the graph, of the files that the graph was made from, and of the version of this
library.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from spikgpt.engines.onnx_session import Session
from spikgpt.errors import GraphError, needs, warn
from spikgpt.files import user_cache
from spikgpt.options import EngineOptions
from spikgpt.reference.files import EMBEDDER, Reference
from spikgpt.reference.format import COMBINED, ENCODER, PARITY
from spikgpt.version import __version__


def open_graph(reference: Reference, name: str, options: EngineOptions | None = None, *, threads: int = 1) -> Session:
    """Open a graph of a reference, after comparing the graph with the weights.

    If another version of this library built the graph in another way, this version builds the graph again and gives a
    SpikGPTWarning. scGPT's graphs are compared if the reference contains the checkpoint and torch is installed.
    Otherwise a SpikGPTWarning says that the graphs were not compared, unless ``spikgpt verify`` has compared them.

    Raises
    ------
    GraphError
        When the reference has no such graph, or the graph cannot be run.
    DamagedReference
        When the graph differs from the graph that is built from the weights.
    """
    if name not in reference.files:
        msg = f"This reference has no {name}; make it with: spikgpt export MODEL --out FOLDER"
        raise GraphError(msg)
    if is_verified(reference, name):
        return Session(reference.files[name], options, threads=threads, trusted=True)
    encoder = None
    if name in (ENCODER, COMBINED):
        if not reference.embedder.get("bundled") or find_spec("torch") is None:
            session = Session.from_files(reference.files, name, options, threads=threads)
            warn(
                f"{name} was not compared with the weights of scGPT, which are not here. To compare them once: "
                "spikgpt verify FOLDER --scgpt FOLDER"
            )
            return session
        from spikgpt.engines.scgpt.source import ScGPTSource

        encoder = ScGPTSource.from_settings(reference.embedder, reference.part(EMBEDDER), reference.genes).encoder()
    with needs("onnx"):
        from spikgpt_onnx.rebuild_graph import rebuild_graph
    rebuilt = rebuild_graph(reference, name, encoder)
    if rebuilt.mismatch:
        warn(f"{name} {rebuilt.mismatch}. The graph of this version is run instead.")
    else:
        mark_verified(reference, name)
    return Session(rebuilt.content, options, threads=threads, trusted=True)


def is_verified(reference: Reference, name: str) -> bool:
    """Return True if the graph was compared with the weights before, and agreed with the weights."""
    try:
        return _marker(reference, name).is_file()
    except (OSError, RuntimeError):
        return False


def mark_verified(reference: Reference, name: str) -> None:
    """Record in the cache folder that a graph agrees with the weights; do nothing if the folder cannot be written."""
    with suppress(OSError, RuntimeError):  # RuntimeError if there is no home folder
        marker = _marker(reference, name)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def _marker(reference: Reference, name: str) -> Path:
    """Return the path of the empty file that marks a graph as verified.

    The name of the file is a digest of ``config.json`` and of the parity report, which holds the sha256 of the graph
    and of its source files.
    """
    digest = hashlib.sha256(f"{__version__}/{name}/".encode())
    for file in (PARITY, "config.json"):
        digest.update(hashlib.sha256(reference.files[file]).digest())
    return user_cache() / "graphs" / digest.hexdigest()

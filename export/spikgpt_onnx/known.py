"""Graphs of references, opened for use: none runs that does not come from the weights, as far as these are there.

To make a graph again takes some tenths of a second, most of it to import onnx. So it is kept in mind which graphs were
held against their weights: an empty file each in the cache folder, named by a digest of the graph, of the files that it
was made from, and of the version of this library.
"""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from spikgpt.errors import SpikGPTWarning, needs
from spikgpt.files import user_cache
from spikgpt.options import EngineOptions
from spikgpt.reference.files import EMBEDDER, Reference
from spikgpt.reference.layout import COMBINED, ENCODER, PARITY
from spikgpt.version import __version__
from spikgpt_onnx.session import Session, missing


def open_graph(reference: Reference, name: str, options: EngineOptions | None = None, *, threads: int = 1) -> Session:
    """Open a graph of a reference to run it.

    One that differs from what the weights make is refused. Where another version of this library has made it in another
    way, that which this version makes is run in its place, and a SpikGPTWarning says so. scGPT's own graph is made
    where the reference carries the checkpoint and torch is there; else a SpikGPTWarning says that it was not compared,
    unless ``spikgpt verify`` has done it before.

    Raises
    ------
    GraphError
        When there is no such graph, or it cannot be run.
    DamagedReference
        When it is not the graph of these weights.
    """
    if name not in reference.files:
        raise missing(name)
    if is_known(reference, name):
        return Session(reference.files[name], options, threads=threads, known=True)
    bundled = bool(reference.embedder.get("bundled")) and find_spec("torch") is not None
    if name in (ENCODER, COMBINED) and not bundled:
        session = Session.of(reference.files, name, options, threads=threads)
        told = f"{name} was not compared with the weights of scGPT, which are not here"
        warnings.warn(f"{told}; to do so once: spikgpt verify FOLDER --scgpt FOLDER", SpikGPTWarning, stacklevel=2)
        return session
    with needs("onnx"):
        from spikgpt_onnx.rebuilt import rebuilt
    encoder = None
    if name in (ENCODER, COMBINED):
        from spikgpt.engines.scgpt.source import ScGPTSource

        encoder = ScGPTSource.from_settings(reference.embedder, reference.part(EMBEDDER), reference.genes).encoder()
    found = rebuilt(reference, name, encoder)
    if found.otherwise:
        warnings.warn(f"{name} {found.otherwise}; the latter's is run.", SpikGPTWarning, stacklevel=2)
    else:
        remember(reference, name)
    return Session(found.content, options, threads=threads, known=True)


def is_known(reference: Reference, name: str) -> bool:
    """Return whether a graph was held against its weights before."""
    try:
        return _place(reference, name).is_file()
    except (OSError, RuntimeError):
        return False


def remember(reference: Reference, name: str) -> None:
    """Keep in mind that a graph is that of its weights, where there is room for it."""
    with suppress(OSError, RuntimeError):  # a RuntimeError says that there is no home
        place = _place(reference, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def _place(reference: Reference, name: str) -> Path:
    """Return the file that stands for a graph; the report on graphs holds the sha256 of each and of its sources."""
    digest = hashlib.sha256(f"{__version__}/{name}/".encode())
    for file in (PARITY, "config.json"):
        digest.update(hashlib.sha256(reference.files[file]).digest())
    return user_cache() / "graphs" / digest.hexdigest()

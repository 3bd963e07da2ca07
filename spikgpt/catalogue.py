"""The references that can be named: shipped with this package, in the cache, and on the Hub."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from spikgpt.hub import Cached, Hub
from spikgpt.layout import FILES, MANIFEST

NAMESPACE_VARIABLE = "SPIKGPT_NAMESPACE"
DEFAULT_NAMESPACE = "spikgpt"


def namespace() -> str:
    """Return the namespace on the Hub that short names mean: ``SPIKGPT_NAMESPACE``, or ``spikgpt``."""
    return os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE


def shipped_references() -> dict[str, Path]:
    """Return the folders of the references inside this package, by name."""
    root = Path(str(files("spikgpt"))) / "references"
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()}


def cached_references(hub: Hub | None = None) -> list[Cached]:
    """Return the references in the cache."""
    return (hub or Hub()).cached((*FILES, MANIFEST))

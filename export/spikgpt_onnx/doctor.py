"""What this machine has to run graphs with, and what is in the way."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from spikgpt.errors import SpikGPTError, install_command, listed
from spikgpt.options import EngineOptions, options_of
from spikgpt.reference.files import read_reference
from spikgpt.reference.layout import GRAPH
from spikgpt.reference.registry import shipped_references
from spikgpt.version import __version__
from spikgpt_onnx import contract
from spikgpt_onnx.known import open_graph
from spikgpt_onnx.session import PROVIDERS, installed_distributions, onnxruntime_module

PACKAGES = ("numpy", "scipy", "pandas", "anndata", "h5py", "zarr", "safetensors", "huggingface-hub")
# Those that annotation does not need.
OPTIONAL = ("torch", "spikingjelly", "scanpy", "onnx", "numba")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and whether it works."""

    what: str
    found: str
    works: bool = True


def findings() -> list[Finding]:
    """Look at versions, ONNX Runtime and its devices, each of which runs the shipped reference on a made-up cell."""
    found = [
        Finding("spikgpt", __version__),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(Finding(name, _version(name) or "not installed", bool(_version(name))) for name in PACKAGES),
    ]
    for name in OPTIONAL:
        found.append(Finding(name, _version(name) or f"not installed; optional: {install_command(name)}"))
    versions = listed(installed_distributions())
    try:
        available = onnxruntime_module().get_available_providers()
    except SpikGPTError as error:
        return [*found, Finding("ONNX Runtime", f"{versions}: {error}", works=False)]
    found.append(Finding("ONNX Runtime", f"{versions}; lists {', '.join(available)}"))
    shipped = read_reference(next(iter(shipped_references().values())))
    ones = np.ones((1, len(shipped.genes)))
    cell = {contract.COUNTS: ones, contract.TOTAL: ones.sum(axis=1), contract.FOUND: ones[0]}
    for provider in PROVIDERS:
        try:
            open_graph(shipped, GRAPH, options_of(EngineOptions, {"provider": provider})).run(cell)
        except SpikGPTError as error:
            found.append(Finding(provider, f"does not work: {error}", works=False))
        else:
            found.append(Finding(provider, "works, strictly: every part of the graph runs there"))
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

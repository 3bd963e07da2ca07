"""Report the installed packages and the engines that work on this machine."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from spikgpt.engines import contract
from spikgpt.engines.onnx_session import PROVIDERS, installed_distributions, onnxruntime_module
from spikgpt.engines.opening import open_engine
from spikgpt.engines.verified_graphs import open_graph
from spikgpt.errors import SpikGPTError, install_command, listed
from spikgpt.options import EngineOptions, options_of
from spikgpt.reference.files import Reference, read_reference
from spikgpt.reference.format import GRAPH
from spikgpt.reference.registry import shipped_references
from spikgpt.version import __version__

PACKAGES = ("numpy", "scipy", "pandas", "anndata", "h5py", "zarr", "safetensors", "huggingface-hub")
# Packages that annotation does not need.
OPTIONAL = ("torch", "spikingjelly", "scanpy", "onnx", "numba")
# Name of the line of the report on the engine that annotation uses by default.
DEFAULT_ENGINE = "default engine"


@dataclass(frozen=True)
class Finding:
    """One line of the report: the name of a package or device, its state, and whether it works."""

    name: str
    state: str
    works: bool = True


def findings() -> list[Finding]:
    """Return findings on package versions, on the devices of ONNX Runtime, and on the default engine."""
    report = [
        Finding("spikgpt", __version__),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(Finding(name, _version(name) or "not installed", bool(_version(name))) for name in PACKAGES),
    ]
    for name in OPTIONAL:
        report.append(Finding(name, _version(name) or f"not installed; optional: {install_command(name)}"))
    shipped = read_reference(next(iter(shipped_references().values())))
    return [*report, *_onnx_findings(shipped), _default_engine(shipped)]


def _onnx_findings(shipped: Reference) -> list[Finding]:
    """Return a finding on ONNX Runtime, and one on each provider from a run of the shipped graph on a made-up cell."""
    distributions = installed_distributions()
    if not distributions:
        return [Finding("ONNX Runtime", f"not installed; optional: {install_command('onnxruntime')}")]
    try:
        available = onnxruntime_module().get_available_providers()
    except SpikGPTError as error:
        return [Finding("ONNX Runtime", f"{listed(distributions)}: {error}", works=False)]
    report = [Finding("ONNX Runtime", f"{listed(distributions)}; lists {', '.join(available)}")]
    ones = np.ones((1, len(shipped.genes)))
    cell = {contract.COUNTS: ones, contract.TOTAL: ones.sum(axis=1), contract.FOUND: ones[0]}
    for provider in PROVIDERS:
        try:
            open_graph(shipped, GRAPH, options_of(EngineOptions, {"provider": provider})).run(cell)
        except SpikGPTError as error:
            report.append(Finding(provider, f"does not work: {error}", works=False))
        else:
            report.append(Finding(provider, "works: every part of the graph runs there"))
    return report


def _default_engine(shipped: Reference) -> Finding:
    try:
        return Finding(DEFAULT_ENGINE, open_engine(shipped).name)
    except SpikGPTError as error:
        return Finding(DEFAULT_ENGINE, str(error), works=False)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

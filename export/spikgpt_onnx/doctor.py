"""What this machine has to run graphs with, and what is in the way."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from spikgpt.errors import SpikGPTError
from spikgpt.reference.registry import shipped_references
from spikgpt.version import __version__
from spikgpt_onnx.annotator import Annotator
from spikgpt_onnx.session import PROVIDERS, installed_distributions, onnxruntime_module

PACKAGES = ("numpy", "scipy", "h5py", "safetensors", "huggingface_hub", "anndata")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and whether it works."""

    what: str
    found: str
    works: bool = True


def findings() -> list[Finding]:
    """Look at versions, ONNX Runtime and its devices, each of which runs the shipped reference on a made-up cell."""
    found = [
        Finding("spikgpt-onnx", __version__),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(Finding(name, _version(name)) for name in PACKAGES),
    ]
    installed = installed_distributions()
    listed = ", ".join(f"{name} {number}" for name, number in installed.items()) or "none"
    try:
        available = onnxruntime_module().get_available_providers()
    except SpikGPTError as error:
        return [*found, Finding("ONNX Runtime", f"{listed}: {error}", works=False)]
    found.append(Finding("ONNX Runtime", f"{listed}; lists {', '.join(available)}"))
    folder = next(iter(shipped_references().values()))
    for provider in PROVIDERS:
        try:
            annotator = Annotator(folder, provider=provider)
            annotator.annotate(
                [[1.0] * len(annotator.stored.genes)], genes=annotator.stored.genes.symbols, progress=False
            )
        except SpikGPTError as error:
            found.append(Finding(provider, f"does not work: {error}", works=False))
        else:
            found.append(Finding(provider, "works, strictly: every part of the graph runs there"))
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

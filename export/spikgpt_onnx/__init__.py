"""Annotate single-cell RNA-seq with SpikGPT references through ONNX Runtime, without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikgpt_onnx.annotation import Annotation
    from spikgpt_onnx.annotator import Annotator
    from spikgpt_onnx.errors import SpikGPTError
    from spikgpt_onnx.runtime import Options, Session
    from spikgpt_onnx.version import __version__

__all__ = ["Annotation", "Annotator", "Options", "Session", "SpikGPTError", "__version__"]

# Imported at first use: scipy and h5py take a second.
_HOMES = {
    "Annotation": "annotation",
    "Annotator": "annotator",
    "Options": "runtime",
    "Session": "runtime",
    "SpikGPTError": "errors",
    "__version__": "version",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Annotate single-cell RNA-seq with SpikGPT references through ONNX Runtime, without torch."""

from spikgpt_onnx.annotation import Annotation
from spikgpt_onnx.annotator import Annotator
from spikgpt_onnx.errors import SpikGPTError
from spikgpt_onnx.runtime import Options, Session
from spikgpt_onnx.version import __version__

__all__ = ["Annotation", "Annotator", "Options", "Session", "SpikGPTError", "__version__"]

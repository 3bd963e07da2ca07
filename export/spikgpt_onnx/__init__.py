"""Run SpikGPT references through ONNX Runtime, without torch."""

from spikgpt_onnx.runtime import Graph

__all__ = ["Graph"]

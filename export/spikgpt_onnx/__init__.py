"""Run SpikGPT references through ONNX Runtime, without torch."""

from spikgpt_onnx.runtime import Graph, GraphError

__all__ = ["Graph", "GraphError"]

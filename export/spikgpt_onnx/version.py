"""The version of this library; ``spikgpt`` and ``spikgpt-onnx`` are released together under one number."""

from importlib.metadata import version

__version__ = version("spikgpt-onnx")

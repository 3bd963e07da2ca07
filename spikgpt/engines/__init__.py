"""Engines that run a reference's network: NumPy, ONNX Runtime and torch."""

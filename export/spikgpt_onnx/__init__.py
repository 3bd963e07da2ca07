"""Run SpikGPT references through ONNX Runtime, and export them to it."""

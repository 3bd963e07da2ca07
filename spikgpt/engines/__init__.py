"""What runs a reference's network: torch here, ONNX Runtime in ``spikgpt_onnx``."""

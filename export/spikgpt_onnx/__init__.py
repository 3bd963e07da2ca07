"""Build, check and export the ONNX graphs of references; annotation runs the graphs by :mod:`spikgpt.engines.onnx`."""

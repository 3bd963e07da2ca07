"""Compare SpikGPT with other methods on the same cells: ``spikgpt benchmark``."""

"""One table of SpikGPT and its rivals on the same cells: ``spikgpt benchmark``."""

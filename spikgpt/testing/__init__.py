"""Helpers to try and to test SpikGPT with."""

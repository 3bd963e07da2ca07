"""Suites that measure SpikGPT across studies, by name."""

from spikgpt_benchmark.studies import (
    energy,
    explanations,
    foreign,
    labels,
    layouts,
    queries,
    speed,
    terms,
    tissues,
    transfer,
)

MODULES = (labels, terms, transfer, foreign, queries, tissues, speed, layouts, energy, explanations)
SUITES = {name: suite for module in MODULES for name, suite in module.SUITES.items()}

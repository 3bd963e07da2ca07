"""Suites that measure SpikGPT across studies, by name."""

from spikgpt_benchmark.studies import foreign, labels, queries, speed, tissues, transfer

SUITES = labels.SUITES | transfer.SUITES | foreign.SUITES | queries.SUITES | tissues.SUITES | speed.SUITES

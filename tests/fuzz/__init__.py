"""Fuzzing with fixed seeds: damaged files, altered references and answers, killed commands."""

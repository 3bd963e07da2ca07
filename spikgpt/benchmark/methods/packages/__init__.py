"""Rivals by their own Python packages."""

"""Detect RNA features and the unit of the values of an expression matrix."""

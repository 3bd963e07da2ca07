"""Vectors and probabilities to a label, or Unknown."""

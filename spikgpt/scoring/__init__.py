"""Decide the label of each cell, or Unknown, from the vectors and probabilities of the network."""

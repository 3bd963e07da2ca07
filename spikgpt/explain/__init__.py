"""Explanation of labels: the genes behind the labels, and the spikes of the network."""

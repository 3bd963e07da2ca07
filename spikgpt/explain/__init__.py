"""Explanation of labels: the genes behind them, and the spikes of the network."""

"""Readers of other files of cells: 10x, STARsolo, kallisto, alevin-fry, and text tables."""

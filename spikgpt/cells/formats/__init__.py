"""Readers of other files of cells: 10x, STARsolo, kallisto, alevin-fry, Parse Biosciences, and text tables."""

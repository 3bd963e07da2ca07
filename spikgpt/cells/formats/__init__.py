"""Readers of files of cells that are not AnnData stores: 10x, STARsolo, kallisto, alevin-fry, and tables of text."""

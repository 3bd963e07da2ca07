"""The table of human genes, and spellings of gene names in files."""

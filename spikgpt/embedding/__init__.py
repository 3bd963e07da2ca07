"""Cells to vectors: principal components, an embedding in ``obsm``, scGPT's tokens."""

"""Embeddings, which turn cells into vectors: principal components, vectors in ``obsm``, and scGPT."""

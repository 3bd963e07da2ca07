"""scGPT, the foundation model whose cell embeddings the classifier can read: checkpoints, tokens, encoder, training."""

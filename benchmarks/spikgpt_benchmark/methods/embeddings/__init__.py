"""Plain classifiers on the embeddings that SpikGPT is trained on."""

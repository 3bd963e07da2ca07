"""Names of the inputs and outputs of the ONNX graphs; export/README.md documents shapes and types."""

from __future__ import annotations

# Raw counts of the genes, in the order of genes.json, shape (cells, genes). Total counts of each cell over all genes of
# the query, shape (cells,).
COUNTS, TOTAL = "counts", "total"
# Mean and standard deviation of the log expression of each gene, each of shape (genes,); default: the reference's.
GENE_MEAN, GENE_STD = "gene_mean", "gene_std"
# 1 for a gene that the query has, and 0 for a missing gene, shape (genes,).
FOUND = "found"
# Embedding of each cell, shape (cells, dim): output of scGPT's encoder, and input of graphs that read an embedding.
EMBEDDING = "embedding"
# Tokens of scGPT: vocabulary indices, bins, and a mask that is False for padding, each of shape (cells, tokens).
TOKEN_IDS, VALUES, MASK = "token_ids", "values", "mask"
# Confidence below which a cell is Unknown, a scalar; default: the reference's.
THRESHOLD = "threshold"

# Probability of each label, shape (cells, labels).
PROBABILITIES = "probabilities"
# Largest probability of each cell, shape (cells,).
CONFIDENCE = "confidence"
# Log of the summed exponentials of the logits, shape (cells,); low for a cell that no label fits.
ENERGY = "energy"
# Input of the classifier, shape (cells, dim); an output of graphs that start from counts.
VECTOR = "vector"
# Index of the most probable label, and the same index with -1 for Unknown cells, each of shape (cells,).
BEST_LABEL, LABEL = "best_label", "label"

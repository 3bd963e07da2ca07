"""Names of the inputs and outputs of the ONNX graphs; export/README.md documents shapes and types."""

from __future__ import annotations

# Raw counts of the genes of genes.json, in that order, (cells, genes), and each cell's sum over all genes of the query.
COUNTS, TOTAL = "counts", "total"
# Mean and standard deviation of log expression, (genes,); default: the reference's.
GENE_MEAN, GENE_STD = "gene_mean", "gene_std"
# 1 for a gene of the query and 0 for a missing gene, (genes,).
FOUND = "found"
# Vector of each cell, (cells, dim).
EMBEDDING = "embedding"
# Tokens of scGPT: vocabulary indices, bins, and a mask that is true for a token, each (cells, tokens).
TOKEN_IDS, VALUES, MASK = "token_ids", "values", "mask"
# Confidence below which a cell is Unknown, (); default: the reference's.
THRESHOLD = "threshold"

# Probability of each label, (cells, labels).
PROBABILITIES = "probabilities"
# Largest probability, (cells,).
CONFIDENCE = "confidence"
# Log of the summed exponentials of the logits, (cells,); low where no label is supported.
ENERGY = "energy"
# Input of the classifier, (cells, dim), from graphs that start from counts.
VECTOR = "vector"
# Index of the most probable label, (cells,), and the same index or -1 for Unknown, (cells,).
BEST_LABEL, LABEL = "best_label", "label"

"""Names, shapes and meaning of what goes into the graphs and comes out: what export/README.md documents."""

from __future__ import annotations

# Raw counts of the genes of genes.json, in that order, (cells, genes), and each cell's sum over all genes of the query.
COUNTS, TOTAL = "counts", "total"
# Mean and standard deviation of log expression to scale with, (genes,), the reference's by default.
GENE_MEAN, GENE_STD = "gene_mean", "gene_std"
# 1 for a gene that the query has and 0 for one that it lacks, (genes,).
FOUND = "found"
# Vector of each cell, (cells, dim).
EMBEDDING = "embedding"
# scGPT's tokens: vocabulary indices, bins, and whether there is a token, each (cells, tokens).
TOKEN_IDS, VALUES, MASK = "token_ids", "values", "mask"
# Confidence below which a cell is Unknown, (), the reference's by default.
THRESHOLD = "threshold"

# Of each label, (cells, labels).
PROBABILITIES = "probabilities"
# The largest of them, (cells,).
CONFIDENCE = "confidence"
# Log of the summed exponentials of the logits, (cells,), low where no label is supported.
ENERGY = "energy"
# What the classifier reads, (cells, dim), of a graph that starts from counts.
VECTOR = "vector"
# Index of the most probable label, (cells,), and the same or -1 for Unknown, (cells,).
BEST_LABEL, LABEL = "best_label", "label"

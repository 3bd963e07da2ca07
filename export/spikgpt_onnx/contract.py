"""File, tensor and field names that exporter and runtime share."""

from __future__ import annotations

FORMAT_VERSION = 1

GRAPH = "onnx/model.onnx"
LABELS = "labels.json"
THRESHOLDS = "thresholds.json"
GENES = "genes.json"
PARITY = "onnx/parity.json"

COUNTS = "counts"
TOTAL = "total"
GENE_MEAN = "gene_mean"
GENE_STD = "gene_std"
EMBEDDING = "embedding"
PROBABILITIES = "probabilities"

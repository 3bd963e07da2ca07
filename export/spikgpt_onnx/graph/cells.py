"""Add nodes that turn aligned counts into vectors, as :class:`spikgpt.embedding.pca.PCAProjection` does."""

from __future__ import annotations

import numpy as np

from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines import contract
from spikgpt_onnx.graph.builder import Builder, Linear


def expression(builder: Builder, projection: PCAProjection) -> str:
    """Add the nodes from aligned counts, shape (B, G), to vectors of unit length, shape (B, D)."""
    add, number = builder.add, builder.number
    total = add("Max", contract.TOTAL, number(1e-12))  # (B,)
    factor = add("Unsqueeze", add("Div", number(projection.target_sum), total), builder.integers(1))  # (B, 1)
    # Add a row of ones: ONNX Runtime adds a row faster than a single number.
    ones = builder.constant("ones", np.ones(len(projection.genes)))
    logs = add("Log", add("Add", add("Mul", contract.COUNTS, factor), ones))  # (B, G)
    inverse = add("Reciprocal", contract.GENE_STD)  # (G,)
    # A missing gene has the value 0, so its mean is set to 0.
    shift = add("Mul", add("Mul", contract.GENE_MEAN, contract.FOUND), inverse)  # (G,)
    # (log - mean) / std takes two operators over cells and genes; the operators above run once for all cells.
    scaled = add("Sub", add("Mul", logs, inverse), shift)  # (B, G)
    clipped = add("Clip", scaled, number(-projection.clip), number(projection.clip))
    components = projection.components.astype(np.float64)
    return builder.unit_length(builder.linear(clipped, Linear("components", components.T)))

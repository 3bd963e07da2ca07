"""The main path: AnnData and a reference in, labels out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.embedders import Embedding
from spikgpt.reference import Reference
from spikgpt_onnx.annotation import Annotation, decided
from spikgpt_onnx.neighbours import smooth
from spikgpt_onnx.thresholds import is_unknown

__all__ = ["Annotation", "annotate", "label"]


def annotate(
    reference: Reference,
    adata: AnnData,
    *,
    layer: str | None = None,
    scaling: str = "auto",
    neighbours: bool = True,
    threshold: float | None = None,
    batch_size: int = 4096,
    on_cells: Callable[[int], None] | None = None,
) -> Annotation:
    """Label every cell of an AnnData, which is left as it is.

    Parameters
    ----------
    layer
        Layer to read; by default the best expression values that the AnnData holds.
    scaling
        How query genes are brought to the reference's scale; ``auto`` decides by evidence.
    neighbours
        Average each cell's probabilities with those of the cells nearest to it; else each cell is labelled alone.
    threshold
        Confidence below which a cell is Unknown; by default the reference's own.
    batch_size
        Cells classified at a time; the labels do not depend on it.
    on_cells
        Called with the number of cells embedded since the last call.

    Raises
    ------
    DataError
        When the cells cannot be read or share too few genes with the reference.
    ConfigError
        When an option is out of range.
    """
    is_unknown(np.empty(0), threshold or 0.0)  # refuse a bad threshold before the work
    embedding = reference.embedder.embed(
        adata, layer=layer, scaling=scaling, classify=reference.probabilities, on_cells=on_cells
    )
    return label(
        reference, embedding, adata.obs_names, neighbours=neighbours, threshold=threshold, batch_size=batch_size
    )


def label(
    reference: Reference,
    embedding: Embedding,
    cells: pd.Index,
    *,
    neighbours: bool = True,
    threshold: float | None = None,
    batch_size: int = 4096,
) -> Annotation:
    """Label cells that are embedded already; the options are those of :func:`annotate`."""
    used = reference.thresholds.threshold if threshold is None else threshold
    probabilities = reference.probabilities(embedding.vectors, batch_size=batch_size)
    if neighbours:
        filled = probabilities[~embedding.empty]
        probabilities[~embedding.empty] = smooth(filled, embedding.points, embedding.shown)
    probabilities[embedding.empty] = 0
    best, unknown, confidence = decided(probabilities, used)
    return Annotation(
        cells=cells,
        best=best,
        rejected=unknown | embedding.empty,
        confidence=confidence,
        probabilities=probabilities.astype(np.float32),
        empty=embedding.empty,
        label_names=reference.labels.names,
        threshold=used,
        neighbours=neighbours,
        reference_name=reference.name,
        reference_origin=reference.origin,
        report=embedding.report,
    )

"""The main path: AnnData and a reference in, labels out."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from anndata import AnnData

from spikgpt.labels.annotation import Annotation, annotated
from spikgpt.labels.reading import Readings, read_embedding
from spikgpt.labels.thresholds import Rejection
from spikgpt.training.embedders import Embedding
from spikgpt.training.reference import Reference

__all__ = ["Annotation", "annotate", "label"]


def annotate(
    reference: Reference,
    adata: AnnData,
    *,
    layer: str | None = None,
    scaling: str = "auto",
    neighbours: bool = True,
    unknown_rate: float | None = None,
    threshold: float | None = None,
    recalibrate: bool = False,
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
    unknown_rate
        Share of the known cells that may be Unknown, by familiarity; by default 5%. 0 rejects no cell.
    threshold
        Confidence below which a cell is Unknown, instead: the paper's rule, with 0.95.
    recalibrate
        Lower the limits of familiarity to what the query itself suggests, for one that lies far from the reference.
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
    rejection = Rejection(unknown_rate, threshold, recalibrate)  # refuse bad options before the work
    embedding = reference.embedder.embed(
        adata, layer=layer, scaling=scaling, classify=reference.probabilities, on_cells=on_cells
    )
    return label(
        reference, embedding, adata.obs_names, neighbours=neighbours, rejection=rejection, batch_size=batch_size
    )


def label(
    reference: Reference,
    embedding: Embedding,
    cells: pd.Index,
    *,
    neighbours: bool = True,
    rejection: Rejection | None = None,
    batch_size: int = 4096,
) -> Annotation:
    """Label cells that are embedded already; the options are those of :func:`annotate`."""
    return annotated(
        cells,
        read(reference, embedding, neighbours=neighbours, batch_size=batch_size),
        embedding.empty,
        embedding.report,
        thresholds=reference.thresholds,
        rejection=rejection or Rejection(),
        labels=reference.labels,
        neighbours=neighbours,
        reference_name=reference.name,
        reference_origin=reference.origin,
    )


def read(reference: Reference, embedding: Embedding, *, neighbours: bool = True, batch_size: int = 4096) -> Readings:
    """Return what the cells of an embedding that are not empty look like to a reference."""
    vectors = embedding.vectors[~embedding.empty]
    probabilities, energies = reference.classified(vectors, batch_size=batch_size)
    return read_embedding(embedding, probabilities, energies, reference.familiarity, neighbours)

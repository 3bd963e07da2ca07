"""The main path: AnnData and a reference in, labels out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from spikgpt.embedders import Embedding, EmbeddingReport
from spikgpt.neighbours import smooth
from spikgpt.reference import Reference
from spikgpt.thresholds import UNKNOWN, confidence_of, is_unknown

LABEL, BEST_LABEL, CONFIDENCE = "spikgpt_label", "spikgpt_best_label", "spikgpt_confidence"
PROBABILITIES, PROVENANCE = "spikgpt_probabilities", "spikgpt"

# Above this share of Unknown cells, or below this share of matched genes, the summary speaks up.
SUSPICIOUS_UNKNOWN = 0.5
SUSPICIOUS_GENES = 0.5


@dataclass(frozen=True)
class Annotation:
    """Labels of n cells.

    ``labels`` are those after rejection, ``best_labels`` those before; ``confidence`` is the largest of the
    ``probabilities``, shape (n, n_labels), whose columns are ``label_names``. A cell without counts is Unknown with
    confidence 0.
    """

    cells: pd.Index
    labels: npt.NDArray[np.str_]
    best_labels: npt.NDArray[np.str_]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    empty: npt.NDArray[np.bool_]
    label_names: tuple[str, ...]
    threshold: float
    neighbours: bool
    reference_name: str
    reference_origin: str | None
    report: EmbeddingReport

    @property
    def unknown_rate(self) -> float:
        """Share of cells that are Unknown."""
        return float((self.labels == UNKNOWN).mean()) if self.labels.size else 0.0

    def table(self) -> pd.DataFrame:
        """Return one row a cell: label, best label, confidence, and the probability of every label."""
        columns = pd.DataFrame(
            {LABEL: self.labels, BEST_LABEL: self.best_labels, CONFIDENCE: self.confidence}, index=self.cells
        )
        names = [f"probability of {name}" for name in self.label_names]
        table = columns.join(pd.DataFrame(self.probabilities, index=self.cells, columns=names).set_axis(self.cells))
        return table.rename_axis("cell")

    def provenance(self) -> dict[str, Any]:
        """Return where the labels come from, as values that an h5ad file can hold."""
        return {
            "reference": self.reference_name,
            "reference_origin": self.reference_origin or "",
            "spikgpt_version": version("spikgpt"),
            "labels": np.array(self.label_names, dtype=object),
            "threshold": self.threshold,
            "values": f"{self.report.values} from {self.report.source}",
            "scaling": self.report.scaling,
            "neighbours": self.neighbours,
            "genes_matched": self.report.genes_matched,
            "genes_total": self.report.genes_total,
        }

    def notes(self) -> list[str]:
        """Return whole sentences on anything suspicious."""
        notes = list(self.report.notes)
        matched, total = self.report.genes_matched, self.report.genes_total
        if not self.report.of_query and matched < SUSPICIOUS_GENES * total:
            notes.append(
                f"Only {matched} of the reference's {total} genes are in the query; labels may be less certain."
            )
        if self.empty.any():
            notes.append(f"{int(self.empty.sum())} cells have no counts and are {UNKNOWN}.")
        if self.unknown_rate > SUSPICIOUS_UNKNOWN:
            notes.append(
                f"{100 * self.unknown_rate:.0f}% of the cells are {UNKNOWN}; is {self.reference_name!r} the right "
                "reference for this tissue and species?"
            )
        return notes

    def write_to(self, adata: AnnData) -> None:
        """Write the labels into ``obs``, the probabilities into ``obsm`` and the provenance into ``uns``."""
        adata.obs[LABEL] = pd.Categorical(self.labels)
        adata.obs[BEST_LABEL] = pd.Categorical(self.best_labels)
        adata.obs[CONFIDENCE] = self.confidence
        adata.obsm[PROBABILITIES] = self.probabilities
        adata.uns[PROVENANCE] = self.provenance()


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
        probabilities[~embedding.empty] = smooth(probabilities[~embedding.empty], embedding.points)
    probabilities[embedding.empty] = 0
    names = np.array(reference.labels.names)
    confidence = confidence_of(probabilities)
    best = np.where(embedding.empty, UNKNOWN, names[probabilities.argmax(axis=1)])
    rejected = is_unknown(confidence, used) | embedding.empty
    return Annotation(
        cells=cells,
        labels=np.where(rejected, UNKNOWN, best),
        best_labels=best,
        confidence=confidence.astype(np.float32),
        probabilities=probabilities.astype(np.float32),
        empty=embedding.empty,
        label_names=reference.labels.names,
        threshold=used,
        neighbours=neighbours,
        reference_name=reference.name,
        reference_origin=reference.origin,
        report=embedding.report,
    )

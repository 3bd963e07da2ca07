"""The labels of a query, and how they were found."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spikgpt_onnx.embedding import EmbeddingReport
from spikgpt_onnx.files import replacing
from spikgpt_onnx.h5ad import write_with
from spikgpt_onnx.thresholds import UNKNOWN, confidence_of, is_unknown
from spikgpt_onnx.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

LABEL, BEST_LABEL, CONFIDENCE = "spikgpt_label", "spikgpt_best_label", "spikgpt_confidence"
PROBABILITIES, PROVENANCE = "spikgpt_probabilities", "spikgpt"

# Above this share of Unknown cells, or below this share of matched genes, the summary speaks up.
SUSPICIOUS_UNKNOWN = 0.5
SUSPICIOUS_GENES = 0.5
# Rows of a table written at a time.
ROWS = 10_000

Floats = npt.NDArray[np.floating[Any]]
# The numbers of the labels of n cells, shape (n,), and the names that they number.
Coded = tuple[npt.NDArray[np.int16], list[str]]


@dataclass(frozen=True)
class Annotation:
    """Labels of n cells.

    ``best`` is the index of the most probable of the ``label_names``, shape (n,), and ``rejected`` says which cells are
    Unknown; ``confidence`` is the largest of the ``probabilities``, shape (n, n_labels). A cell without counts is
    Unknown with confidence 0. ``cells`` are their names, by index.
    """

    cells: Any
    best: npt.NDArray[np.int16]
    rejected: npt.NDArray[np.bool_]
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
    def labels(self) -> npt.NDArray[np.str_]:
        """Labels after rejection, shape (n,)."""
        return self._named(self.rejected)

    @property
    def best_labels(self) -> npt.NDArray[np.str_]:
        """Labels before rejection, shape (n,)."""
        return self._named(self.empty)

    @property
    def unknown_rate(self) -> float:
        """Share of cells that are Unknown."""
        return float(self.rejected.mean()) if self.rejected.size else 0.0

    def counts(self) -> dict[str, int]:
        """Return the number of cells of each label, the largest first."""
        codes, names = self._coded(self.rejected)
        counts = zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True)
        return dict(sorted(counts, key=lambda pair: -pair[1]))

    def table(self) -> pd.DataFrame:
        """Return one row a cell: label, best label, confidence, and the probability of every label."""
        import pandas as pd

        labels = {LABEL: self.labels, BEST_LABEL: self.best_labels, CONFIDENCE: self.confidence}
        names = [f"probability of {name}" for name in self.label_names]
        parts = [pd.DataFrame(labels), pd.DataFrame(self.probabilities, columns=names)]
        return pd.concat(parts, axis=1).set_axis(pd.Index(self.cells[:], name="cell"))

    def provenance(self) -> dict[str, Any]:
        """Return where the labels come from, as values that an h5ad file can hold."""
        return {
            "reference": self.reference_name,
            "reference_origin": self.reference_origin or "",
            "spikgpt_version": __version__,
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
        import pandas as pd

        for column, unknown in ((LABEL, self.rejected), (BEST_LABEL, self.empty)):
            codes, names = self._coded(unknown)
            adata.obs[column] = pd.Categorical.from_codes(codes, pd.Index(names))
        adata.obs[CONFIDENCE] = self.confidence
        adata.obsm[PROBABILITIES] = self.probabilities
        adata.uns[PROVENANCE] = self.provenance()

    def write_h5ad(self, source: Path, target: Path) -> None:
        """Write a copy of the h5ad file that the cells came from, with what :meth:`write_to` adds."""
        columns = {
            LABEL: self._coded(self.rejected),
            BEST_LABEL: self._coded(self.empty),
            CONFIDENCE: self.confidence,
        }
        write_with(source, target, columns, {PROBABILITIES: self.probabilities}, {PROVENANCE: self.provenance()})

    def write_csv(self, path: Path) -> None:
        """Write one row a cell, with the columns of :meth:`table`."""
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            names = [f"probability of {name}" for name in self.label_names]
            rows.writerow(["cell", LABEL, BEST_LABEL, CONFIDENCE, *names])
            for start in range(0, len(self.best), ROWS):
                part = slice(start, start + ROWS)
                texts = (self.cells[part], self._named(self.rejected, part), self._named(self.empty, part))
                numbers = np.column_stack([self.confidence[part], self.probabilities[part]])
                rows.writerows(
                    [*text, *map(str, row)]
                    for *text, row in zip(*texts, numbers, strict=True)  # float32, shortest
                )

    def _named(self, unknown: npt.NDArray[np.bool_], part: slice = slice(None)) -> npt.NDArray[np.str_]:
        """Return labels as text, Unknown where ``unknown`` says so."""
        return np.where(unknown[part], UNKNOWN, np.array(self.label_names)[self.best[part]])

    def _coded(self, unknown: npt.NDArray[np.bool_]) -> Coded:
        """Return labels as numbers of the names that occur, in alphabetical order."""
        names = [*self.label_names, UNKNOWN]
        codes = np.where(unknown, len(self.label_names), self.best)
        present = sorted(np.unique(codes).tolist(), key=lambda code: names[code])
        places = np.zeros(len(names), dtype=np.int16)
        places[present] = np.arange(len(present))
        return places[codes], [names[code] for code in present]


def decided(
    probabilities: Floats, threshold: float
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return each cell's best label, whether it is Unknown, and its confidence, from probabilities, shape (n, L)."""
    confidence = confidence_of(probabilities)
    best = probabilities.argmax(axis=1).astype(np.int16)
    return best, is_unknown(confidence, threshold), confidence.astype(np.float32)

"""The labels of a query, and how they were found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spikgpt.cells.output import write_copy
from spikgpt.embedding.result import EmbeddingReport
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.ontology import broad_labels
from spikgpt.labels.reading import Readings
from spikgpt.labels.thresholds import UNKNOWN, Decision, Rejection, Thresholds, confidence_of, decide, tempered
from spikgpt.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

LABEL, BEST_LABEL, BROAD_LABEL = "spikgpt_label", "spikgpt_best_label", "spikgpt_label_broad"
CONFIDENCE, FAMILIARITY = "spikgpt_confidence", "spikgpt_familiarity"
PROBABILITIES, PROVENANCE = "spikgpt_probabilities", "spikgpt"

# Above this share of Unknown cells, or below this share of matched genes, the summary speaks up.
SUSPICIOUS_UNKNOWN = 0.5
SUSPICIOUS_GENES = 0.5
# A promise that is missed by more than this factor, by the estimate, is called so.
SUSPICIOUS_SHIFT = 2.0
# Rows of a table written at a time.
ROWS = 10_000

Floats = npt.NDArray[np.floating[Any]]
# The numbers of the labels of n cells, shape (n,), and the names that they number.
Coded = tuple[npt.NDArray[np.int16], list[str]]
# The same before rejection, and which cells are Unknown, shape (n,).
Column = tuple[npt.NDArray[np.int16], tuple[str, ...], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Annotation:
    """Labels of n cells.

    ``best`` is the index of the most probable of the ``label_names``, shape (n,); ``confidence`` is the largest of the
    ``probabilities``, shape (n, n_labels), and answers which label it is, if it is one of them. ``decision`` says which
    cells are Unknown and how familiar each is, and answers whether it is. ``broad`` are indices of ``broad_names``,
    terms of the Cell Ontology where labels are too close to call. A cell without counts is Unknown with confidence 0.
    ``cells`` are their names, by index.
    """

    cells: Any
    best: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    empty: npt.NDArray[np.bool_]
    label_names: tuple[str, ...]
    broad: npt.NDArray[np.int16]
    broad_names: tuple[str, ...]
    decision: Decision
    neighbours: bool
    reference_name: str
    reference_origin: str | None
    report: EmbeddingReport

    @property
    def rejected(self) -> npt.NDArray[np.bool_]:
        """Which cells are Unknown, shape (n,)."""
        return self.decision.rejected

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """Labels after rejection, shape (n,)."""
        return _named(*self._columns()[LABEL])

    @property
    def best_labels(self) -> npt.NDArray[np.str_]:
        """Labels before rejection, shape (n,)."""
        return _named(*self._columns()[BEST_LABEL])

    @property
    def broad_labels(self) -> npt.NDArray[np.str_]:
        """Labels after rejection, or what ambiguous ones have in common, shape (n,)."""
        return _named(*self._columns()[BROAD_LABEL])

    @property
    def familiarity(self) -> npt.NDArray[np.float32] | None:
        """Share of held-out known cells that are less familiar, shape (n,), if the reference measured that."""
        return self.decision.familiarity

    @property
    def unknown_rate(self) -> float:
        """Share of cells that are Unknown."""
        return float(self.rejected.mean()) if self.rejected.size else 0.0

    def counts(self) -> dict[str, int]:
        """Return the number of cells of each label, the largest first."""
        codes, names = _coded(*self._columns()[LABEL])
        counts = zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True)
        return dict(sorted(counts, key=lambda pair: -pair[1]))

    def table(self, part: slice = slice(None)) -> pd.DataFrame:
        """Return one row a cell, or a part of them: labels, confidence, familiarity, and every label's probability."""
        import pandas as pd

        labels = self._columns().items()
        columns: dict[str, Any] = {name: _named(codes[part], known, out[part]) for name, (codes, known, out) in labels}
        columns |= {name: numbers[part] for name, numbers in self._numbers().items()}
        names = [f"probability of {name}" for name in self.label_names]
        parts = [pd.DataFrame(columns), pd.DataFrame(self.probabilities[part], columns=names)]
        return pd.concat(parts, axis=1).set_axis(pd.Index(self.cells[part], name="cell"))

    def tables(self) -> Iterator[pd.DataFrame]:
        """Give the table some cells after the others, for :func:`spikgpt.cells.output.write_table`."""
        # A table of no cells has columns, too.
        for start in range(0, len(self.best), ROWS) or (0,):
            yield self.table(slice(start, start + ROWS))

    def provenance(self) -> dict[str, Any]:
        """Return where the labels come from, as values that an h5ad file can hold."""
        return {
            "reference": self.reference_name,
            "reference_origin": self.reference_origin or "",
            "spikgpt_version": __version__,
            "labels": np.array(self.label_names, dtype=object),
            "rule": self.decision.rule,
            "threshold": np.nan if self.decision.threshold is None else self.decision.threshold,
            "unknown_rate": np.nan if self.decision.unknown_rate is None else self.decision.unknown_rate,
            "recalibrated": self.decision.recalibrated,
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
        rate, expected = self.decision.unknown_rate, self.decision.expected
        if rate and expected is not None and expected > SUSPICIOUS_SHIFT * rate and not self.decision.recalibrated:
            notes.append(
                f"These cells lie farther from the reference than its own held-out cells, so about "
                f"{100 * expected:.0f}% of the cells of known types are {UNKNOWN}, not at most {100 * rate:g}%. "
                "Recalibrate on the query to get nearer to that, at the risk of naming some cells of unseen types."
            )
        if self.unknown_rate > SUSPICIOUS_UNKNOWN:
            notes.append(
                f"{100 * self.unknown_rate:.0f}% of the cells are {UNKNOWN}; is {self.reference_name!r} the right "
                "reference for this tissue and species?"
            )
        return notes

    def write_to(self, adata: AnnData) -> None:
        """Write the labels into ``obs``, the probabilities into ``obsm`` and the provenance into ``uns``."""
        for name, column in self._obs().items():
            adata.obs[name] = column
        adata.obsm[PROBABILITIES] = self.probabilities
        adata.uns[PROVENANCE] = self.provenance()

    def write_h5ad(self, source: Path, target: Path, more: Mapping[str, npt.NDArray[np.str_]] | None = None) -> None:
        """Write a copy of the h5ad file that the cells came from, with what :meth:`write_to` adds.

        Parameters
        ----------
        more
            More columns of labels for ``obs``, shape (n,) each.
        """
        import pandas as pd

        columns = self._obs() | {name: pd.Categorical(labels) for name, labels in (more or {}).items()}
        obsm, uns = {PROBABILITIES: self.probabilities}, {PROVENANCE: self.provenance()}
        write_copy(source, target, obs=columns, obsm=obsm, uns=uns)

    def _obs(self) -> dict[str, Any]:
        """Return the columns of ``obs``."""
        import pandas as pd

        coded = {name: _coded(*column) for name, column in self._columns().items()}
        labels = {name: pd.Categorical.from_codes(codes, pd.Index(names)) for name, (codes, names) in coded.items()}
        return labels | self._numbers()

    def _columns(self) -> dict[str, Column]:
        """Return the columns of labels."""
        return {
            LABEL: (self.best, self.label_names, self.rejected),
            BEST_LABEL: (self.best, self.label_names, self.empty),
            BROAD_LABEL: (self.broad, self.broad_names, self.rejected),
        }

    def _numbers(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the columns of numbers."""
        return {CONFIDENCE: self.confidence} | ({} if self.familiarity is None else {FAMILIARITY: self.familiarity})


def annotated(
    cells: Any,
    readings: Readings,
    empty: npt.NDArray[np.bool_],
    report: EmbeddingReport,
    *,
    thresholds: Thresholds,
    rejection: Rejection,
    labels: LabelMap,
    neighbours: bool,
    reference_name: str,
    reference_origin: str | None,
) -> Annotation:
    """Decide what is Unknown, and put everything together.

    Parameters
    ----------
    readings
        Of the cells that are not empty.
    neighbours
        Whether cells were to be seen with their neighbours.

    Raises
    ------
    ConfigError
        When familiarity is asked for and the reference has none.
    """
    calibration = thresholds.together if readings.together else None
    filled = np.flatnonzero(~empty)
    everything = np.zeros((len(empty), len(labels.names)), dtype=np.float32)
    for start in range(0, len(filled), ROWS):
        part = slice(start, start + ROWS)
        # Those of cells seen alone are calibrated by the network.
        everything[filled[part]] = tempered(readings.probabilities[part], calibration.temperature if calibration else 1)
    known = everything if len(filled) == len(empty) else everything[filled]
    decision = decide(thresholds, rejection, labels.names, known, readings.scores, together=readings.together)
    broad, broad_names = broad_labels(everything, labels.names, labels.cell_ontology_ids)
    return Annotation(
        cells=cells,
        best=everything.argmax(axis=1).astype(np.int16),
        confidence=np.asarray(confidence_of(everything), dtype=np.float32),
        probabilities=everything,
        empty=empty,
        label_names=labels.names,
        broad=broad,
        broad_names=broad_names,
        decision=replace(
            decision,
            rejected=_spread(decision.rejected, empty, True),
            familiarity=None if decision.familiarity is None else _spread(decision.familiarity, empty, 0),
        ),
        neighbours=neighbours,
        reference_name=reference_name,
        reference_origin=reference_origin,
        report=report,
    )


def _spread(values: npt.NDArray[Any], empty: npt.NDArray[np.bool_], fill: Any) -> npt.NDArray[Any]:
    """Return values of the cells that are not empty as values of all, with another for those that are."""
    everything = np.full(len(empty), fill, dtype=values.dtype)
    everything[~empty] = values
    return everything


def _named(
    codes: npt.NDArray[np.int16], names: tuple[str, ...], unknown: npt.NDArray[np.bool_]
) -> npt.NDArray[np.str_]:
    """Return a column of labels as text."""
    return np.where(unknown, UNKNOWN, np.array(names)[codes])


def _coded(codes: npt.NDArray[np.int16], names: tuple[str, ...], unknown: npt.NDArray[np.bool_]) -> Coded:
    """Return a column of labels as numbers of the names that occur, in alphabetical order."""
    texts = list(dict.fromkeys([*names, UNKNOWN]))
    codes = np.where(unknown, texts.index(UNKNOWN), codes)
    present = sorted(np.unique(codes).tolist(), key=lambda code: texts[code])
    places = np.zeros(len(texts), dtype=np.int16)
    places[present] = np.arange(len(present))
    return places[codes], [texts[code] for code in present]

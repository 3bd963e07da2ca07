"""Sentences and notes on the labels of a query, from numbers of cells that can be summed over parts of the query."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from spikgpt.constants import CONSTANTS
from spikgpt.errors import with_noun
from spikgpt.scoring.compatibility import Compatibility
from spikgpt.scoring.ontology import NO_TERM, RELEASE, current_id, term_of
from spikgpt.scoring.rejection import RejectionRule
from spikgpt.types import UNKNOWN, Bools, InputReport, Integers

# Share of Unknown cells above which there is a note, and share of matched genes below which there is a note.
SUSPICIOUS_UNKNOWN = SUSPICIOUS_GENES = 0.5
# Lowest confidence of a confident cell, share of confident cells that must be Unknown for a note, and largest number of
# labels in a note.
CONFIDENT, CONFIDENT_UNKNOWN, LABELS_NAMED = 0.9, 0.1, 3
LIMITS = CONSTANTS.compatibility


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of cells in a part of a query; the tallies of several parts can be added.

    Attributes
    ----------
    labels
        Number of cells of each label after rejection, the largest first.
    cells, empty, uncertain
        Number of all cells, of cells without counts, and of cells with counts whose confidence is below the
        ``least_confidence`` of the rule.
    confident, confident_unknown
        Number of confident cells of each label before rejection, in the order of the reference, and number of these
        cells that are Unknown. Confident cells have a confidence of at least 0.9.
    """

    labels: dict[str, int]
    cells: int
    empty: int
    uncertain: int
    confident: list[int]
    confident_unknown: list[int]

    @classmethod
    def from_cells(
        cls,
        best: Integers,
        rejected: Bools,
        empty: Bools,
        confidence: npt.NDArray[np.float32],
        label_names: tuple[str, ...],
        rule: RejectionRule,
    ) -> Tally:
        """Return the tally of n cells; the arrays are those of an :class:`spikgpt.Annotation`, each of shape (n,)."""
        size, confident = len(label_names), confidence >= CONFIDENT
        kept = np.bincount(best[~rejected], minlength=size).tolist()
        labels = dict(zip(label_names, kept, strict=True))
        labels[UNKNOWN] = labels.get(UNKNOWN, 0) + int(rejected.sum())
        least = rule.least_confidence or 0.0
        return cls(
            labels=_ordered(labels),
            cells=len(best),
            empty=int(empty.sum()),
            uncertain=int((~empty & (confidence < least)).sum()),
            confident=np.bincount(best[confident], minlength=size).tolist(),
            confident_unknown=np.bincount(best[confident & rejected], minlength=size).tolist(),
        )

    def __add__(self, other: Tally) -> Tally:
        names = self.labels | other.labels
        return Tally(
            labels=_ordered({name: self.labels.get(name, 0) + other.labels.get(name, 0) for name in names}),
            cells=self.cells + other.cells,
            empty=self.empty + other.empty,
            uncertain=self.uncertain + other.uncertain,
            confident=np.add(self.confident, other.confident).tolist(),
            confident_unknown=np.add(self.confident_unknown, other.confident_unknown).tolist(),
        )


@dataclass(frozen=True, kw_only=True)
class QuerySummary:
    """Facts for the sentences and notes on a query; the fields are those of :class:`spikgpt.Annotation`."""

    tally: Tally
    report: InputReport
    rule: RejectionRule
    compatibility: Compatibility | None
    label_names: tuple[str, ...]
    label_ids: tuple[str | None, ...]
    reference_name: str
    batch_key: str | None

    @property
    def unknown_fraction(self) -> float:
        """Share of cells that are Unknown."""
        return self.tally.labels.get(UNKNOWN, 0) / max(self.tally.cells, 1)

    @property
    def verdict(self) -> str | None:
        """Sentence on the compatibility and its evidence; None for a reference of format 1."""
        return self.compatibility.sentence if self.compatibility else None

    def sentences(self) -> list[str]:
        """Return sentences that describe the input, the share of Unknown cells, and the compatibility."""
        report, verdict, unknown = self.report, self.verdict, self.tally.labels.get(UNKNOWN, 0)
        return [
            f"Read {report.values} from {report.source}; scaling: {report.scaling}.",
            *([report.genes] if report.genes else []),
            *([f"Batches: {self.batch_key}. Unknown is decided within each batch."] if self.batch_key else []),
            f"{UNKNOWN}: {unknown} of {with_noun(self.tally.cells, 'cell')} ({100 * self.unknown_fraction:.1f}%).",
            f"Rule for {UNKNOWN}: {self.rule.rule}.",
            *([verdict] if verdict else []),
            *([] if any(self.label_ids) else ["The labels of the reference have no Cell Ontology ids."]),
        ]

    def notes(self) -> list[str]:
        """Return a sentence on each unusual fact, such as few genes or many Unknown cells."""
        notes, rule, check = list(self.report.notes), self.rule, self.compatibility
        usable = check is None or check.usable
        if check and not usable:
            notes.insert(0, check.sentence)
        matched, total = self.report.genes_matched, self.report.genes_total
        if not self.report.of_query and matched < SUSPICIOUS_GENES * total:
            notes.append(
                f"Only {matched} of the reference's {total} genes are in the query; labels may be less certain."
            )
        if self.tally.empty:
            empty = with_noun(self.tally.empty, "cell without counts is", "cells without counts are")
            notes.append(f"{empty} {UNKNOWN}.")
        guaranteed, expected = rule.unknown_rate, rule.false_rejection
        another_study = bool(guaranteed and expected is not None and expected > LIMITS.another_study * guaranteed)
        if another_study and usable and rule.ood is None:
            notes.append(
                f"The query is from another study than the reference, so about {100 * (expected or 0):.0f}% of the "
                f"cells of known types are {UNKNOWN}, not at most {100 * (guaranteed or 0):g}%. Leave out "
                "reference_cutoff (--reference-cutoff) unless the query is from the reference's own study."
            )
        if usable and (least := rule.least_confidence) is not None:
            uncertain = self.tally.uncertain / self.tally.cells
            notes.append(
                f"The query has few of the reference's genes, so the cells with a confidence below {least:.2f} "
                f"({100 * uncertain:.0f}%) are {UNKNOWN}. To label all cells: unknown_rate=0 (--no-unknown)."
            )
        if usable and self.unknown_fraction > SUSPICIOUS_UNKNOWN:
            notes.append(
                f"{100 * self.unknown_fraction:.0f}% of the cells are {UNKNOWN}; is {self.reference_name!r} the right "
                "reference for this tissue and species?"
            )
        elif usable and (note := self._confident_unknown()):
            notes.append(note)
        return notes + self._labels_without_term()

    def _confident_unknown(self) -> str | None:
        """Return a note if the OOD rule makes many confident cells Unknown, else None; the note names their labels."""
        cells, lost = np.array(self.tally.confident), np.array(self.tally.confident_unknown)
        if self.rule.ood is None or not lost.sum() > CONFIDENT_UNKNOWN * cells.sum():
            return None
        largest = [label for label in np.argsort(-lost, kind="stable")[:LABELS_NAMED] if lost[label]]
        named = ", ".join(f"{self.label_names[label]} ({lost[label]} of {cells[label]})" for label in largest)
        return (
            f"{100 * lost.sum() / cells.sum():.0f}% of the cells with a confidence of at least {CONFIDENT} are "
            f"{UNKNOWN}; by best label: {named}. These cells may be of a type that the reference lacks, or of a "
            f"separate batch. Batches used: {self.batch_key or 'none'}. To name a column: batch_key='COLUMN' "
            "(--batch-key COLUMN). To label all cells: unknown_rate=0 (--no-unknown)."
        )

    def _labels_without_term(self) -> list[str]:
        """Return notes on the labels of cells whose Cell Ontology id is obsolete, missing or not valid.

        If no label of the reference has an id, there is no note.
        """
        if not any(self.label_ids):
            return []
        pairs = zip(self.label_names, self.label_ids, strict=True)
        given = [(name, term) for name, term in pairs if self.tally.labels.get(name)]
        replaced = [f"{name} ({old}, now {new})" for name, old in given if (new := current_id(old)) != old]
        missing = [f"{name} ({term})" if term else name for name, term in given if term_of(term) == NO_TERM]
        notes = []
        if replaced:
            notes.append(
                "The Cell Ontology has replaced the ids of these labels, and their cells get the new ids: "
                f"{_first(replaced)}."
            )
        if missing:
            notes.append(
                f"The Cell Ontology of {RELEASE} has no cell type for these labels: {_first(missing)}. Their cells "
                f"have {NO_TERM!r} in the ontology columns. To change this, train the reference with valid ids."
            )
        return notes


def _first(names: list[str]) -> str:
    """Return a text with the first three names, and the number of the remaining names."""
    more = f" and {len(names) - LABELS_NAMED} more" if len(names) > LABELS_NAMED else ""
    return f"{', '.join(names[:LABELS_NAMED])}{more}"


def _ordered(labels: dict[str, int]) -> dict[str, int]:
    """Return the labels that have cells, sorted by falling number of cells and then by name."""
    return dict(
        sorted(((name, cells) for name, cells in labels.items() if cells), key=lambda pair: (-pair[1], pair[0]))
    )

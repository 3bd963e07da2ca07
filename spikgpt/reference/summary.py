"""Summaries of references and their labels, for terminals and notebooks. This module does not import NumPy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import msgspec

from spikgpt.reference.format import migrated
from spikgpt.reference.hub_metadata import CELL_TYPE, ORGANISM, TISSUE, values_of
from spikgpt.reference.json_files import converted, parsed
from spikgpt.reference.schema import Config, MetricsRecord, Spread
from spikgpt.tables import Row, html_table, text_table

if TYPE_CHECKING:
    from spikgpt.scoring.label_map import LabelMap

SHIPPED, CACHED, HUB = "shipped", "cached", "Hub"
# Common names of organisms, by their scientific names in lower case.
SPECIES = {"homo sapiens": "human", "mus musculus": "mouse", "rattus norvegicus": "rat", "danio rerio": "zebrafish"}
MEGABYTE = 1e6
# The last 28 digits of a commit, which a table leaves out.
SHORTENED = re.compile(r"(?<=@[0-9a-f]{12})[0-9a-f]{28}\Z")


class LabelSummary(msgspec.Struct, frozen=True):
    """A label: Cell Ontology id, number of training cells, and F1 on held-out cells (None if not measured)."""

    name: str
    cell_ontology_id: str | None
    cells: int
    f1: float | None


class Labels(tuple[str, ...]):
    """The names of the labels of a reference, in the order of the columns of ``obsm["spikgpt_probabilities"]``.

    The labels are shown as a table when they are printed, and in notebooks. ``rows`` has the summary of each label.
    """

    rows: tuple[LabelSummary, ...]
    COLUMNS = ("label", "Cell Ontology id", "cells", "F1, held out")

    def __new__(cls, rows: Iterable[LabelSummary]) -> Self:
        """Return the names of labels from their summaries, which the new object keeps in ``rows``."""
        rows = tuple(rows)
        labels = super().__new__(cls, (row.name for row in rows))
        labels.rows = rows
        return labels

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.rows,)

    @classmethod
    def from_metrics(cls, labels: LabelMap, metrics: Mapping[str, Any]) -> Self:
        """Return labels with their scores and numbers of cells from ``metrics``, the values of ``metrics.json``."""
        scores = {row["label"]: row["f1"] for row in label_agreement(metrics)["per_label"]}
        return cls(
            LabelSummary(name, term, metrics["cells_per_label"][name], scores.get(name))
            for name, term in zip(labels.names, labels.cell_ontology_ids, strict=True)
        )

    def table(self) -> list[Row]:
        """Return the rows of the table of labels, as texts."""
        return [
            (row.name, row.cell_ontology_id or "-", f"{row.cells:,}", _score(row.f1, "not measured"))
            for row in self.rows
        ]

    def __repr__(self) -> str:
        return text_table(self.COLUMNS, self.table(), numbers=2)

    def _repr_html_(self) -> str:
        return html_table(self.COLUMNS, self.table(), numbers=2)


class CrossValidationSummary(msgspec.Struct, frozen=True):
    """Scores with each donor or batch held out in turn; ``groups`` is the number of donors or batches."""

    batch_key: str
    groups: int
    accuracy: Spread
    macro_f1: Spread


class ReferenceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a reference, as lists of references show it.

    Attributes
    ----------
    name
        Name for :meth:`spikgpt.SpikGPT.from_pretrained`, and for ``--model``.
    source
        ``shipped``, ``cached`` or ``Hub``.
    commit, refs
        Commit in the cache, and the branches and tags that name this commit.
    cell_types, cells
        Number of labels, and of training cells.
    accuracy, macro_f1
        Scores on held-out cells.
    cross_validation
        Scores with each donor or batch held out in turn; None without a cross-validation.
    size
        Size of all files in bytes.
    verified
        True if all files have the SHA-256 of the manifest, False if a file is damaged, None if only on the Hub.

    The values of a reference on the Hub come from its tags. Values that are not known are None.
    """

    name: str
    source: str
    commit: str | None = None
    refs: tuple[str, ...] = ()
    tissue: str | None = None
    organism: str | None = None
    licence: str | None = None
    cell_types: int | None = None
    cells: int | None = None
    accuracy: float | None = None
    macro_f1: float | None = None
    cross_validation: CrossValidationSummary | None = None
    size: int | None = None
    verified: bool | None = None

    def with_files(self, files: Mapping[str, bytes]) -> Self:
        """Return the summary with the facts from the reference's files, which were compared with the manifest.

        Raises
        ------
        DamagedReference
            When a JSON file is not valid.
        """
        present = migrated(files)
        config, metrics = (parsed(present[name], name) for name in ("config.json", "metrics.json"))
        provenance = converted(config, "config.json", Config).provenance
        scores = converted(metrics, "metrics.json", MetricsRecord)
        validation = metrics.get("cross_validation")
        return msgspec.structs.replace(
            self,
            tissue=provenance.tissue or None,
            organism=provenance.organism or None,
            licence=provenance.licence or None,
            cell_types=len(scores.cells_per_label),
            cells=scores.cells,
            accuracy=scores.held_out.accuracy,
            macro_f1=scores.held_out.macro_f1,
            cross_validation=_cross_validation(validation) if validation else None,
            size=sum(map(len, files.values())),
            verified=True,
        )

    @classmethod
    def from_tags(cls, name: str, tags: Sequence[str]) -> Self:
        """Summarise a repository of the Hub by its tags."""
        tissue, organism = (", ".join(values_of(tags, prefix)) or None for prefix in (TISSUE, ORGANISM))
        types = len(values_of(tags, CELL_TYPE)) or None
        return cls(name=name, source=HUB, tissue=tissue, organism=organism and organism.capitalize(), cell_types=types)

    def row(self) -> Row:
        """Return the row of this reference in a table of references, as texts."""
        validation = self.cross_validation
        accuracy = validation.accuracy.mean if validation else self.accuracy
        macro_f1 = validation.macro_f1.mean if validation else self.macro_f1
        species = SPECIES.get((self.organism or "").lower(), self.organism or "")
        return (
            SHORTENED.sub("", self.name),
            f"{species} {self.tissue or ''}".strip() or "-",
            "-" if self.cell_types is None else str(self.cell_types),
            "-" if self.cells is None else f"{self.cells:,}",
            _score(accuracy, "-"),
            _score(macro_f1, "-"),
            "-" if self.size is None else f"{self.size / MEGABYTE:.1f}",
            "damaged" if self.verified is False else self.source,
        )


class ReferenceList(tuple[ReferenceSummary, ...]):
    """Summaries of references, which are shown as a table when they are printed, and in notebooks.

    The table has accuracy and macro-F1 on held-out cells. If donors or batches were held out in turn, the table has the
    means over them.
    """

    COLUMNS = ("name", "cells of", "types", "cells", "acc.", "F1", "MB", "source")

    def table(self) -> list[Row]:
        """Return the rows of the table of references, as texts."""
        return [reference.row() for reference in self]

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain JSON values, for example for ``pandas.DataFrame``."""
        return [msgspec.to_builtins(reference) for reference in self]

    def __repr__(self) -> str:
        return text_table(self.COLUMNS, self.table(), numbers=2)

    def _repr_html_(self) -> str:
        return html_table(self.COLUMNS, self.table(), numbers=2)


def label_agreement(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the agreement from which the scores of each label are taken.

    This is the agreement of the cross-validation if there is one, else that of the held-out cells.
    """
    validation = metrics.get("cross_validation")
    agreement: dict[str, Any] = validation["pooled"] if validation else metrics["held_out"]
    return agreement


def _cross_validation(values: Mapping[str, Any]) -> CrossValidationSummary:
    return converted({**values, "groups": len(values["groups"])}, "metrics.json", CrossValidationSummary)


def _score(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.3f}"

"""Cell Annotation Schema (CAS): sets of cells with their labels, Cell Ontology terms and evidence, as JSON.

Source: https://github.com/cellannotation/cell-annotation-schema, general schema, version 1.1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import UNSET, UnsetType

from spikgpt.files import replacing
from spikgpt.scoring.ontology import NO_TERM, name_of
from spikgpt.types import UNKNOWN

SCHEMA_VERSION = "1.1.0"
# Largest number of characters of a title and of a rationale.
LONGEST_TITLE, LONGEST_RATIONALE = 200, 2000


class CellSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set of cells with one label: an ``Annotation`` of the schema. The names of the fields are those of the schema.

    Attributes
    ----------
    labelset
        Name of the set of labels, which is the column of ``obs``.
    author_annotation_fields
        Further facts on the set, as text.
    """

    labelset: str
    cell_label: str
    cell_fullname: str
    cell_ontology_term_id: str | UnsetType = UNSET
    cell_ontology_term: str | UnsetType = UNSET
    cell_ids: list[str]
    rationale: str
    marker_gene_evidence: list[str] | UnsetType = UNSET
    author_annotation_fields: dict[str, str]

    @classmethod
    def from_label(
        cls,
        labelset: str,
        label: str,
        term: str,
        cell_ids: Sequence[str],
        rationale: str,
        facts: dict[str, Any],
        markers: Sequence[str] = (),
    ) -> Self:
        """Return the set of the cells with a label; Unknown is written as "unknown", as the schema requires.

        Parameters
        ----------
        term
            Valid Cell Ontology id, or "unknown".
        """
        label = NO_TERM if label == UNKNOWN else label
        known = term != NO_TERM
        return cls(
            labelset=labelset,
            cell_label=label,
            cell_fullname=name_of(term) if known else label,
            cell_ontology_term_id=term if known else UNSET,
            cell_ontology_term=name_of(term) if known else UNSET,
            cell_ids=list(cell_ids),
            rationale=rationale[:LONGEST_RATIONALE],
            marker_gene_evidence=list(markers) or UNSET,
            author_annotation_fields={name: str(value) for name, value in facts.items()},
        )


class Labelset(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a set of labels, which is a column of ``obs``."""

    name: str
    description: str
    annotation_method: str = "algorithmic"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a CAS file: title, author, sets of labels, and all sets of cells of a query."""

    title: str
    author_name: str
    cellannotation_schema_version: str = SCHEMA_VERSION
    labelsets: list[Labelset]
    annotations: list[CellSet]

    def write(self, path: Path) -> None:
        """Write the document to a JSON file."""
        with replacing(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(self))

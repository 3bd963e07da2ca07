"""Labels of a reference, with their Cell Ontology ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from unicodedata import normalize

import msgspec

from spikgpt.errors import DamagedReference, LabelsError, with_noun
from spikgpt.types import UNKNOWN

# Largest number of characters of a label name, and largest number of names in a message.
LONGEST, SHOWN = 200, 5


class LabelRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of ``labels.json``."""

    index: int
    name: str
    cell_ontology_id: str | None


@dataclass(frozen=True)
class LabelMap:
    """Name and Cell Ontology id of each label, by the index of the label; the id is None if it is not known."""

    names: tuple[str, ...]
    cell_ontology_ids: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.cell_ontology_ids):
            msg = (
                f"Found {with_noun(len(self.names), 'label name')} and "
                f"{with_noun(len(self.cell_ontology_ids), 'Cell Ontology id')}; expected an id, or None, for each name."
            )
            raise LabelsError(msg)
        if twice := sorted(name for name, times in Counter(self.names).items() if times > 1):
            msg = f"Label names must differ; {', '.join(twice[:SHOWN])} occurs more than once."
            raise LabelsError(msg)
        for name in self.names:
            if fault := _fault_of(name):
                msg = f"The label name {name[:LONGEST]!r} {fault}. Rename the label."
                raise LabelsError(msg)
        if UNKNOWN in self.names:
            msg = f"{UNKNOWN!r} is the name for rejected cells, so no label may have it; rename the label."
            raise LabelsError(msg)
        by_fold: dict[str, str] = {}
        for name in (*self.names, UNKNOWN):
            other = by_fold.setdefault(normalize("NFKC", name).casefold(), name)
            if other != name:
                msg = f"{other!r} and {name!r} differ only in case or width; rename one of them."
                raise LabelsError(msg)
        if strange := [i for i in self.cell_ontology_ids if i is not None and not i.isprintable()]:
            msg = f"{strange[0]!r} is no Cell Ontology id, such as CL:0000169."
            raise LabelsError(msg)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the rows of ``labels.json``."""
        pairs = enumerate(zip(self.names, self.cell_ontology_ids, strict=True))
        return [msgspec.to_builtins(LabelRow(index, *pair)) for index, pair in pairs]

    @classmethod
    def from_rows(cls, rows: Sequence[LabelRow]) -> Self:
        """Return the label map from the rows of ``labels.json``.

        Raises
        ------
        DamagedReference
            When rows are out of order or invalid.
        """
        for index, row in enumerate(rows):
            if row.index != index:
                msg = f"Row {index} of labels.json has the index {row.index}. Get the reference again."
                raise DamagedReference(msg)
        try:
            return cls(tuple(row.name for row in rows), tuple(row.cell_ontology_id for row in rows))
        except LabelsError as error:
            msg = f"labels.json is not valid: {error} Get the reference again."
            raise DamagedReference(msg) from None


def _fault_of(name: str) -> str:
    """Return a phrase on the fault of a label name; an empty text for a valid name."""
    if not name or not name.isprintable():
        return "is empty or has control characters"
    if name != name.strip():
        return "starts or ends with a space"
    if len(name) > LONGEST:
        return f"has more than {LONGEST} characters"
    return "" if normalize("NFC", name) == name else "is not in Unicode's composed form (NFC)"

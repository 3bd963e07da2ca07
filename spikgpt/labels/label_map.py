"""The labels of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikgpt.errors import DamagedReference, LabelsError
from spikgpt.labels.thresholds import UNKNOWN


@dataclass(frozen=True)
class LabelMap:
    """Names of the labels by index, and their Cell Ontology ids where they are known."""

    names: tuple[str, ...]
    cell_ontology_ids: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.cell_ontology_ids):
            msg = f"There are {len(self.names)} label names and {len(self.cell_ontology_ids)} Cell Ontology ids."
            raise LabelsError(msg)
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            msg = f"Label names must differ; {', '.join(twice)} occurs more than once."
            raise LabelsError(msg)
        if strange := [name for name in self.names if not name or not name.isprintable()]:
            msg = f"Label names are printed, so {strange[0]!r} cannot be one; it is empty or has control characters."
            raise LabelsError(msg)
        if strange := [i for i in self.cell_ontology_ids if i is not None and not i.isprintable()]:
            msg = f"{strange[0]!r} is no Cell Ontology id, such as CL:0000169."
            raise LabelsError(msg)
        if UNKNOWN in self.names:
            msg = f"{UNKNOWN!r} is what rejected cells are called, so no label may have that name; rename it."
            raise LabelsError(msg)

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain JSON values."""
        return [
            {"index": index, "name": name, "cell_ontology_id": ontology_id}
            for index, (name, ontology_id) in enumerate(zip(self.names, self.cell_ontology_ids, strict=True))
        ]

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> LabelMap:
        """Read :meth:`to_list`'s output.

        Raises
        ------
        DamagedReference
            When rows are out of order or lack a field.
        """
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            msg = "labels.json does not hold a list of labels."
            raise DamagedReference(msg)
        for index, row in enumerate(rows):
            ontology_id = row.get("cell_ontology_id")
            if (
                row.keys() != {"index", "name", "cell_ontology_id"}
                or row["index"] != index
                or not isinstance(row["name"], str)
                or not (ontology_id is None or isinstance(ontology_id, str))
            ):
                expected = f"index {index}, a name, and a Cell Ontology id or null"
                msg = f"Row {index} of labels.json is {row}; expected {expected}."
                raise DamagedReference(msg)
        try:
            return cls(tuple(row["name"] for row in rows), tuple(row["cell_ontology_id"] for row in rows))
        except LabelsError as error:
            raise DamagedReference(str(error)) from error

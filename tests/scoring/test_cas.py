"""Cell Annotation Schema documents hold the required fields, and only fields of the schema."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from spikgpt.scoring.cas import LONGEST_RATIONALE, CellSet, Document, Labelset
from spikgpt.scoring.ontology import NO_TERM, ontology
from spikgpt.types import UNKNOWN

# Annotation fields of the general schema, version 1.1.0, that this package writes.
REQUIRED = {"labelset", "cell_label"}
TEXTS = {"cell_fullname", "cell_ontology_term_id", "cell_ontology_term", "rationale"}
LISTS = {"cell_ids", "marker_gene_evidence"}

label = st.text(min_size=1, max_size=20)
term = st.sampled_from([NO_TERM, "CL:0000169", "CL:0000236"])


@given(label | st.just(UNKNOWN), term, st.lists(label), st.text(max_size=3000), st.lists(label))
def test_a_set_has_the_fields_of_the_schema(
    name: str, term: str, cells: list[str], rationale: str, markers: list[str]
) -> None:
    cell_set = CellSet.from_label("leiden", name, term, cells, rationale, {"cells": len(cells)}, markers)
    written = json.loads(msgspec.json.encode(cell_set))
    assert set(written) - TEXTS - LISTS - {"author_annotation_fields"} == REQUIRED
    assert all(isinstance(written[field], str) for field in (REQUIRED | TEXTS) & written.keys())
    assert all(isinstance(item, str) for field in LISTS & written.keys() for item in written[field])
    assert written["author_annotation_fields"] == {"cells": str(len(cells))}
    assert len(written["rationale"]) <= LONGEST_RATIONALE
    assert written["cell_label"] == ("unknown" if name == UNKNOWN else name)
    # The id and the name of a term are written together, and only for a valid term.
    assert written.get("cell_ontology_term") == ontology().names.get(term)
    assert written.get("cell_ontology_term_id", NO_TERM) == term
    assert ("marker_gene_evidence" in written) == bool(markers)


def test_a_document_has_the_required_fields(tmp_path: Path) -> None:
    cells = CellSet.from_label("a", "beta", "CL:0000169", ["one"], "Made up.", {})
    document = Document(
        title="Islets", author_name="", labelsets=[Labelset(name="a", description="b")], annotations=[cells]
    )
    document.write(tmp_path / "cas.json")
    written = json.loads((tmp_path / "cas.json").read_text())
    assert {"author_name", "title", "annotations", "labelsets"} <= written.keys()
    assert written["labelsets"] == [{"name": "a", "description": "b", "annotation_method": "algorithmic"}]
    assert written["annotations"][0]["cell_ids"] == ["one"]

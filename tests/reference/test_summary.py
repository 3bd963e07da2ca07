"""Summaries of references and labels, and the tables that show them."""

from __future__ import annotations

import json
import pickle

import msgspec
import pytest

from spikgpt.errors import DamagedReference
from spikgpt.reference.files import Reference
from spikgpt.reference.format import stored_files
from spikgpt.reference.json_files import dumped
from spikgpt.reference.registry import shipped_references
from spikgpt.reference.summary import Labels, ReferenceList, ReferenceSummary

PANCREAS = shipped_references()["pancreas"]
NAMES = ("pancreas", "heart-sinoatrial", "lung-lavage")


def pancreas(**changes: object) -> ReferenceSummary:
    summary = ReferenceSummary(name="pancreas", source="shipped").with_files(stored_files(PANCREAS))
    return msgspec.structs.replace(summary, **changes)


def test_the_summary_of_a_reference_comes_from_its_files() -> None:
    metrics, summary = json.loads((PANCREAS / "metrics.json").read_text()), pancreas()
    assert (summary.tissue, summary.organism, summary.licence) == ("pancreas", "Homo sapiens", "MIT")
    assert (summary.cell_types, summary.cells) == (len(metrics["cells_per_label"]), metrics["cells"])
    assert (summary.accuracy, summary.macro_f1) == (metrics["held_out"]["accuracy"], metrics["held_out"]["macro_f1"])
    assert summary.size == sum(path.stat().st_size for path in PANCREAS.rglob("*") if path.is_file())
    assert summary.verified is True
    assert summary.row()[:4] == ("pancreas", "human pancreas", str(summary.cell_types), f"{summary.cells:,}")


def test_a_cross_validation_replaces_the_scores_of_the_table() -> None:
    files = stored_files(PANCREAS)
    metrics = json.loads(files["metrics.json"])
    accuracy, held_out = metrics["held_out"]["accuracy"], metrics["held_out"]
    # With one donor, the donor's figures must equal those of the pooled cells.
    metrics["cross_validation"] = {
        "batch_key": "donor",
        "groups": [{"group": "a", **{key: held_out[key] for key in ("cells", "accuracy", "macro_f1")}}],
        "accuracy": {"mean": accuracy, "std": 0.0},
        "macro_f1": {"mean": held_out["macro_f1"], "std": 0.0},
        "pooled": held_out,
    }
    read = ReferenceSummary(name="x", source="cached").with_files(files | {"metrics.json": dumped(metrics)})
    assert read.cross_validation is not None
    assert (read.cross_validation.groups, read.cross_validation.accuracy.mean) == (1, accuracy)
    spread = msgspec.structs.replace(read.cross_validation.accuracy, mean=0.125)
    changed = msgspec.structs.replace(read.cross_validation, accuracy=spread)
    assert pancreas(cross_validation=changed).row()[4] == "0.125"
    assert pancreas().row()[4] == f"{accuracy:.3f}"


def test_metrics_of_another_form_are_refused() -> None:
    with pytest.raises(DamagedReference, match="metrics.json is not valid"):
        pancreas().with_files(stored_files(PANCREAS) | {"metrics.json": b"{}"})


def test_a_repository_is_summarised_by_its_tags() -> None:
    tags = ("spikgpt", "tissue:rpe-and-choroid", "organism:homo-sapiens", "cell_type:a", "cell_type:b", "x")
    summary = ReferenceSummary.from_tags("spikgpt/rpe", tags)
    assert summary.row() == ("spikgpt/rpe", "human rpe and choroid", "2", "-", "-", "-", "-", "Hub")
    assert summary.verified is None
    assert ReferenceSummary.from_tags("spikgpt/x", ()).row()[1:3] == ("-", "-")


def test_a_long_commit_is_shortened_in_the_table_alone() -> None:
    commit = "0123456789" * 4
    summary = pancreas(name=f"a/b@{commit}", commit=commit, verified=False)
    assert summary.row()[0] == "a/b@012345678901"
    assert summary.row()[-1] == "damaged"
    assert ReferenceList([summary]).to_list()[0]["name"] == f"a/b@{commit}"


def test_the_repr_of_a_list_is_a_table() -> None:
    references = ReferenceList(pancreas(name=name) for name in NAMES)
    lines = repr(references).splitlines()
    assert len(lines) == 1 + len(NAMES)
    assert lines[0].split() == ["name", "cells", "of", "types", "cells", "acc.", "F1", "MB", "source"]
    assert max(map(len, lines)) <= 80
    assert {len(line) for line in lines} == {len(lines[0])}  # the last column is aligned to the right
    page = references._repr_html_()
    assert page.count("<tr>") == 1 + len(NAMES)
    assert all(name in page for name in NAMES)
    assert json.loads(json.dumps(references.to_list()))[0]["cell_types"] == references[0].cell_types


def test_labels_equal_their_names_and_show_their_figures(small: Reference) -> None:
    labels = Labels.from_metrics(small.labels, small.metrics)
    assert labels == small.labels.names
    assert small.labels.names[0] in labels
    assert [row.cell_ontology_id for row in labels.rows] == list(small.labels.cell_ontology_ids)
    assert sum(row.cells for row in labels.rows) == small.metrics["cells"]
    scores = {row["label"]: row["f1"] for row in small.metrics["held_out"]["per_label"]}
    assert {row.name: row.f1 for row in labels.rows if row.f1 is not None} == scores
    assert len(repr(labels).splitlines()) == 1 + len(labels)
    assert labels._repr_html_().count("<tr>") == 1 + len(labels)
    assert pickle.loads(pickle.dumps(labels)).rows == labels.rows

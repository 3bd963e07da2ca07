"""Sentences and facts of a report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from anndata import AnnData

from spikgpt import Annotation, SpikGPT, __version__
from spikgpt.options import AnnotateOptions
from spikgpt.pipeline import INFERRED
from spikgpt.report.texts import PAPER, batches, changed_options, citations, genes, methods, notes, run_facts, verdict
from spikgpt.scoring.compatibility import LIKE, OTHER, STUDY, Compatibility, Kind
from tests.conftest import labelled

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "title", "tone"),
    [
        (LIKE, "The reference suits these cells", "good"),
        (STUDY, "The reference can be used: these cells are of another study", "fair"),
        (OTHER, "Do not use these labels", "bad"),
    ],
)
def test_the_compatibility_is_in_words(annotated: Annotation, kind: Kind, title: str, tone: str) -> None:
    values = {"correlation": 0.954, "pancreas: similarity": 1.2}
    check = Compatibility(kind, "it barks; it meows (r = 0.95)", values)
    answer = verdict(dataclasses.replace(annotated, compatibility=check))
    assert (answer.title, answer.tone) == (title, tone)
    assert answer.evidence == ("It barks.", "It meows (r = 0.95).")
    assert {name: number for name, _, number in answer.numbers} == {
        "Correlation of the differences between labels": "0.954",
        "pancreas: Similarity": "1.2",
    }
    assert "All cells are Unknown" not in answer.text


@pytest.mark.parametrize("kind", [LIKE, STUDY])
def test_the_compatibility_of_few_cells_is_not_checked(annotation: Annotation, kind: Kind) -> None:
    answer = verdict(dataclasses.replace(annotation, compatibility=Compatibility(kind, "it barks", {})))
    assert (answer.title, answer.tone) == ("Too few cells to check the reference", "fair")
    assert answer.text.startswith("The check needs 100 cells.")


def test_other_tissue_has_no_labels_and_a_skipped_check_is_stated(annotation: Annotation) -> None:
    check = Compatibility(OTHER, "it barks", {})
    rejected = np.ones(12, dtype=bool)
    answer = verdict(dataclasses.replace(annotation, compatibility=check, rejected=rejected))
    assert answer.text.endswith("All cells are Unknown.")
    assert notes(dataclasses.replace(annotation, compatibility=check)) == tuple(annotation.notes())
    unchecked = verdict(dataclasses.replace(annotation, compatibility=None))
    assert unchecked.title == "The compatibility was not checked"


def test_genes_that_are_missing_are_named(shipped: SpikGPT, query: AnnData) -> None:
    symbols = shipped.reference.genes.symbols
    part = query[:, [name for name in query.var_names if name not in symbols[:300]]].copy()
    facts = genes(labelled(shipped.reference, part, shipped.engine))
    assert (facts.present, facts.total) == (700, 1000)
    assert set(facts.missing) == set(symbols[:300])
    assert facts.helping > 0
    assert "The other 300 genes are imputed from these and from" in " ".join(facts.sentences)


def test_genes_are_described_once(annotated: Annotation) -> None:
    note = "627 of the reference's 1000 genes are in the query. In simulation, up to 100% of cells keep their label."
    report = dataclasses.replace(annotated.input_report, notes=(note,), simulated_accuracy=1.0)
    facts = genes(dataclasses.replace(annotated, input_report=report))
    assert "In simulation" not in " ".join(facts.sentences)
    alone = dataclasses.replace(report, notes=())
    assert "In simulation, 100%" in " ".join(genes(dataclasses.replace(annotated, input_report=alone)).sentences)


def test_each_number_of_the_check_has_a_name_and_an_explanation(annotated: Annotation) -> None:
    assert annotated.compatibility is not None
    assert len(annotated.compatibility.values) == 8
    for name, meaning, _ in verdict(annotated).numbers:
        assert "_" not in name
        assert meaning.endswith("."), name


def test_the_origin_of_a_local_reference(annotated: Annotation) -> None:
    assert dict(run_facts(annotated, AnnotateOptions()))["Origin"] == "shipped with SpikGPT"
    other = dataclasses.replace(annotated, reference_digest="0" * 64)
    assert dict(run_facts(other, AnnotateOptions()))["Origin"] == "a folder on this machine"
    hub = dataclasses.replace(annotated, reference_origin="hub:owner/name@1")
    assert dict(run_facts(hub, AnnotateOptions()))["Origin"] == "hub:owner/name@1"


def test_batches_that_were_chosen_automatically_are_named(annotated: Annotation) -> None:
    chosen = dataclasses.replace(annotated, batch_key="donor x lane")
    text = batches(chosen, AnnotateOptions())
    assert text.startswith("Batches: column donor x lane, chosen automatically. --no-batch")
    assert batches(chosen, AnnotateOptions(batch_key="donor")) == ""
    for key in (None, INFERRED):
        assert batches(dataclasses.replace(annotated, batch_key=key), AnnotateOptions()) == ""


def test_without_missing_genes_there_is_nothing_to_impute(annotated: Annotation) -> None:
    text = genes(annotated)
    assert (text.present, text.total, text.missing) == (1000, 1000, ())
    assert text.sentences == ("1000 of the reference's 1000 genes are in the query.",)


def test_the_facts_of_a_run_name_engine_rule_and_options(annotated: Annotation) -> None:
    options = AnnotateOptions(batch_key="donor", smoothing=False, labels=["a", "b"], progress=True)
    facts = dict(run_facts(annotated, options))
    assert facts["Reference"] == "pancreas"
    assert facts["Digest"] == annotated.reference_digest
    assert facts["Engine"].startswith(("onnx", "numpy"))
    assert facts["Rule for Unknown"] == annotated.rule.rule
    assert facts["Options"] == "--batch-key donor, --labels a,b, --no-smoothing"
    assert f"SpikGPT {__version__}" in facts["Versions"]
    assert dict(run_facts(annotated, AnnotateOptions()))["Options"] == "default"


def test_options_are_those_of_the_command_line() -> None:
    options = AnnotateOptions(batch_key=None, unknown_rate=0.1, reference_cutoff=True)
    assert changed_options(options) == "--no-batch, --unknown-rate 0.1, --reference-cutoff"


def test_the_methods_section_names_the_reference(annotated: Annotation) -> None:
    text = methods(annotated)
    assert text.startswith(f"Cell types were annotated with SpikGPT {__version__} and the reference pancreas (digest ")
    assert annotated.reference_digest in text
    unknown = int(annotated.rejected.sum())
    assert f"Unknown cells: {unknown} of 300 cells ({100 * unknown / 300:.1f}%). Rule for Unknown: " in text
    several = dataclasses.replace(annotated, reference_name="a + b", reference_digest="1 + 2")
    assert "the references a + b (digests 1 + 2)" in methods(several)


def test_the_works_to_cite_are_those_of_the_citation_file(annotated: Annotation) -> None:
    software, paper, *studies = citations(annotated)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["title"] in software
    assert cited["authors"][0]["name"] in software
    assert paper.rstrip(".") == cited["references"][0]["title"]
    assert PAPER in (ROOT / "docs" / "cite.md").read_text()
    # The study of training and test cells is cited once.
    (study,) = studies
    assert study.startswith("Baron et al., Cell Systems 2016")
    assert study.endswith("(GSE84133)")
    assert len(citations(dataclasses.replace(annotated, query=None))) == 2

"""Annotations: labels, probabilities, provenance, colours, notes and descriptions."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import anndata
import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.errors import SpikGPTWarning
from spikgpt.scoring.compatibility import LIKE, OTHER, STUDY, Compatibility, Kind
from spikgpt.scoring.ontology import RELEASE
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette

N_CELLS = 12
LABELS = ("spikgpt_label", "spikgpt_best_label", "spikgpt_label_broad")
ONTOLOGY = ("spikgpt_ontology_term_id", "spikgpt_ontology_label")
# "spikgpt_familiarity" is the name of the typicality in version 0.9.
SCORES = ("spikgpt_confidence", "spikgpt_typicality", "spikgpt_familiarity")


@pytest.mark.parametrize(
    ("old", "name"), [("familiarity", "typicality"), ("verdict", "compatibility"), ("cutoffs", "rule")]
)
def test_names_of_version_0_9_still_work(annotation: Annotation, old: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"Annotation.{old} is now called {name}"):
        assert getattr(annotation, old) is getattr(annotation, name)


def test_another_study_is_noted_if_the_reference_cutoffs_decide_alone(
    annotation: Annotation,
) -> None:
    far = dataclasses.replace(annotation.rule, ood=None, false_rejection=0.31)
    (note,) = altered(annotation, rule=far).notes()
    assert all(fact in note for fact in ("31%", "5%", "reference_cutoff", "--reference-cutoff"))
    near = dataclasses.replace(far, false_rejection=0.1)
    by_ood = dataclasses.replace(far, ood=annotation.rule.ood)
    for rule in (annotation.rule, near, by_ood):
        assert not altered(annotation, rule=rule).notes()


def test_incompatibility_is_the_first_note(annotation: Annotation) -> None:
    far = dataclasses.replace(annotation.rule, ood=None, false_rejection=0.31)
    report = dataclasses.replace(annotation.input_report, genes_matched=1)
    nothing = altered(annotation, rule=far, input_report=report, rejected=np.ones(N_CELLS, dtype=bool))
    genes, study, unknown = nothing.notes()
    assert genes.startswith("Only 1 of")
    assert "another study" in study
    assert unknown.startswith("100% of the cells are Unknown")
    # For an incompatible query, there are no notes on Unknown cells and on another study.
    unsuited = altered(nothing, compatibility=Compatibility(OTHER, "it barks", {}))
    first, *remaining = unsuited.notes()
    assert first.startswith("The cells are of another tissue or species; do not use the labels: it barks.")
    assert remaining == [genes]
    for compatibility in (Compatibility(LIKE, "it meows", {}), Compatibility(STUDY, "it purrs", {}), None):
        assert not any("do not use" in note for note in altered(annotation, compatibility=compatibility).notes())


@pytest.mark.parametrize("kind", [LIKE, STUDY, OTHER, None])
def test_the_compatibility_and_its_evidence_are_stored(
    annotation: Annotation, tmp_path: Path, kind: Kind | None
) -> None:
    adata, compatibility = cells(annotation), kind and Compatibility(kind, "it barks", {"correlation": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikGPTWarning)
        altered(annotation, compatibility=compatibility).write_to(adata)
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    stored = anndata.read_h5ad(tmp_path / "labelled.h5ad").uns["spikgpt"]
    assert (stored["compatibility"], stored["evidence"]) == ((kind, "it barks") if kind else ("", ""))
    assert stored["verdict"] == stored["compatibility"]
    assert stored["evidence_values"] == ({"correlation": 0.5} if kind else {})


def test_the_ood_score_and_the_batches_are_stored(annotation: Annotation) -> None:
    assert (list(annotation.obs()), annotation.uns()["spikgpt"]["batch_key"]) == (
        [*LABELS, *ONTOLOGY, *SCORES],
        "",
    )
    score = np.linspace(-1, 1, N_CELLS).astype(np.float32)
    scored = altered(annotation, ood_score=score, batch_key="donor x condition")
    np.testing.assert_array_equal(scored.obs()["spikgpt_ood_score"], score)
    np.testing.assert_array_equal(scored.table()["spikgpt_ood_score"], score)
    assert scored.uns()["spikgpt"]["batch_key"] == "donor x condition"


def test_confident_unknown_cells_are_noted_by_label(annotation: Annotation) -> None:
    sure = altered(
        annotation, confidence=np.full(N_CELLS, 0.95, dtype=np.float32), rejected=np.arange(N_CELLS) % 6 == 0
    )
    (note,) = sure.notes()
    assert note.startswith(
        "17% of the cells with a confidence of at least 0.9 are Unknown; by best label: alpha (2 of 6)."
    )
    assert "batch_key='COLUMN' (--batch-key COLUMN)" in note
    assert note.endswith("unknown_rate=0 (--no-unknown).")
    by_threshold = dataclasses.replace(sure.rule, ood=None)
    first_cell, unsure = np.arange(N_CELLS) == 0, np.full(N_CELLS, 0.8, dtype=np.float32)
    for other in (
        altered(sure, rule=by_threshold),
        altered(sure, rejected=first_cell),
        altered(sure, confidence=unsure),
    ):
        assert not other.notes()


def altered(annotation: Annotation, **changes: Any) -> Annotation:
    return dataclasses.replace(annotation, **changes)


def cells(annotation: Annotation, **columns: Any) -> AnnData:
    """Return unlabelled cells with the names in an annotation."""
    return AnnData(np.ones((N_CELLS, 1), dtype=np.float32), obs=pd.DataFrame(columns, index=annotation.obs_names))


def test_labels_are_added_to_the_data_of_the_cells(annotation: Annotation, tmp_path: Path) -> None:
    adata = cells(annotation, depth=np.arange(N_CELLS))
    adata.obsm["X_umap"] = np.ones((N_CELLS, 2))
    annotation.write_to(adata)
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    after = anndata.read_h5ad(tmp_path / "labelled.h5ad")
    assert after.obs.columns.tolist() == ["depth", *LABELS, *ONTOLOGY, *SCORES]
    np.testing.assert_array_equal(after.obs["spikgpt_label"].astype(str), annotation.labels)
    np.testing.assert_array_equal(after.obs["spikgpt_best_label"].astype(str), annotation.best_labels)
    np.testing.assert_array_equal(after.obs["spikgpt_label_broad"].astype(str), annotation.broad_labels)
    np.testing.assert_array_equal(after.obs["spikgpt_confidence"], annotation.confidence)
    for name in SCORES[1:]:
        np.testing.assert_array_equal(after.obs[name], annotation.typicality)
    np.testing.assert_array_equal(after.obsm["spikgpt_probabilities"], annotation.probabilities)
    assert list(after.obsm) == ["X_umap", "spikgpt_probabilities"]
    assert after.uns["spikgpt"].keys() == annotation.uns()["spikgpt"].keys()
    assert after.uns["spikgpt"]["reference"] == "hand-made"
    assert after.uns["spikgpt"]["labels"].tolist() == ["alpha", "beta"]
    assert after.uns["spikgpt"]["ontology_term_ids"].tolist() == ["CL:0000171", "CL:0000169"]
    assert (after.uns["spikgpt"]["ontology_release"], after.uns["spikgpt"]["certainty"]) == (RELEASE, 0.95)
    np.testing.assert_array_equal(after.obs["spikgpt_ontology_term_id"].astype(str), annotation.ontology_term_ids)
    np.testing.assert_array_equal(after.obs["spikgpt_ontology_label"].astype(str), annotation.ontology_labels)
    assert after.uns["spikgpt"]["values"] == "counts from X"
    assert sorted(after.uns) == sorted(["spikgpt", *(f"{name}_colors" for name in LABELS)])


def test_the_ontology_columns_hold_the_term_of_the_broad_label(annotation: Annotation) -> None:
    obs = annotation.obs()
    ids, names = (obs[name].astype(str).tolist() for name in ONTOLOGY)
    # The first six cells are Unknown; "islet cell" is the name of a term in this annotation alone.
    assert ids == ["unknown"] * 6 + ["CL:0000171", "CL:0008024"] * 3
    assert names == ["unknown"] * 6 + ["pancreatic A cell", "pancreatic endocrine cell"] * 3
    assert obs["spikgpt_label_broad"].tolist() == ["Unknown"] * 6 + ["alpha", "islet cell"] * 3
    assert obs["spikgpt_label"].tolist() == ["Unknown"] * 6 + ["alpha", "beta"] * 3
    assert obs["spikgpt_ontology_term_id"].cat.categories.tolist() == ["CL:0000171", "CL:0008024", "unknown"]
    # Two labels with the same Cell Ontology term share one category.
    same = altered(annotation, broad_ids=("CL:0000171", "CL:0000171", "unknown", "CL:0000171")).obs()
    assert same["spikgpt_ontology_term_id"].cat.categories.tolist() == ["CL:0000171", "unknown"]


@pytest.mark.parametrize(
    ("term", "shown"),
    [(None, "beta"), ("CL:9999999", r"beta \(CL:9999999\)"), ("CL:0000548", r"beta \(CL:0000548\)")],
)
def test_labels_without_a_valid_term_are_noted(annotation: Annotation, term: str | None, shown: str) -> None:
    changed = altered(annotation, label_ids=("CL:0000171", term))
    assert changed.uns()["spikgpt"]["ontology_term_ids"].tolist() == ["CL:0000171", "unknown"]
    with pytest.warns(SpikGPTWarning, match=f"no cell type for these labels: {shown}. Their cells have 'unknown'"):
        changed.write_to(cells(annotation))
    # A note does not name labels without cells.
    assert not altered(changed, best=np.zeros(N_CELLS, dtype=np.int16)).notes()


def test_an_obsolete_term_is_replaced_and_noted(annotation: Annotation) -> None:
    changed = altered(annotation, label_ids=("CL:0000171", "CL:0000139"))
    assert changed.uns()["spikgpt"]["ontology_term_ids"].tolist() == ["CL:0000171", "CL:0000059"]
    (note,) = changed.notes()
    assert note.endswith(r"their cells get the new ids: beta (CL:0000139, now CL:0000059).")


def test_a_reference_without_ids_is_described_without_a_warning(annotation: Annotation) -> None:
    nothing = altered(annotation, label_ids=(None, None))
    assert nothing.sentences()[-1] == "The labels of the reference have no Cell Ontology ids."
    assert nothing.notes() == []
    assert annotation.sentences()[-1] != nothing.sentences()[-1]


def test_labelled_cells_can_be_labelled_again(annotation: Annotation) -> None:
    adata = cells(annotation)
    annotation.write_to(adata)
    once = adata.copy()
    annotation.write_to(adata)
    pd.testing.assert_frame_equal(adata.obs, once.obs)
    np.testing.assert_array_equal(adata.obsm["spikgpt_probabilities"], once.obsm["spikgpt_probabilities"])
    assert str(adata.uns) == str(once.uns)


def test_the_table_holds_labels_and_probabilities(annotation: Annotation) -> None:
    table = annotation.table()
    assert table.columns.tolist()[-2:] == ["probability of alpha", "probability of beta"]
    assert table.index.name == "cell"
    pd.testing.assert_frame_equal(table.iloc[:, :8].rename_axis(None), annotation.obs())
    assert table["spikgpt_label"].cat.categories.tolist() == ["Unknown", "alpha", "beta"]
    assert table["spikgpt_confidence"].dtype == np.float32


def test_the_chunks_of_the_table_add_up_to_the_table(annotation: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = altered(annotation, obs_names=pd.Index(["cell"] * N_CELLS))
    monkeypatch.setattr("spikgpt.scoring.annotation.ROWS", 5)
    chunks = list(repeated.table_chunks())
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    pd.testing.assert_frame_equal(pd.concat(chunks), repeated.table())


def without_cells(annotation: Annotation) -> Annotation:
    fields = ("obs_names", "best", "confidence", "probabilities", "empty", "broad", "rejected", "typicality")
    return altered(annotation, **{name: getattr(annotation, name)[:0] for name in fields})


def test_an_annotation_without_cells_has_an_empty_table(annotation: Annotation) -> None:
    nothing = without_cells(annotation)
    (chunk,) = nothing.table_chunks()
    assert chunk.columns.tolist() == annotation.table().columns.tolist()
    assert (nothing.counts(), nothing.unknown_fraction, nothing.labels.tolist()) == ({}, 0, [])
    assert repr(nothing) == "Annotation of 0 cells by 'hand-made': Unknown 0 (0.0%)"
    assert "<table>" in nothing._repr_html_()


def test_provenance_records_the_smoothing(annotation: Annotation) -> None:
    # Fewer than 100 cells are not smoothed, whatever the options.
    for smoothed in (True, False):
        assert altered(annotation, smoothed=smoothed).uns()["spikgpt"]["neighbours"] is smoothed


def test_colours_follow_the_labels_not_the_query(annotation: Annotation) -> None:
    alpha, beta, islet = palette(3)
    uns = annotation.uns()
    assert annotation.obs()["spikgpt_label"].cat.categories.tolist() == ["Unknown", "alpha", "beta"]
    assert uns["spikgpt_label_colors"].tolist() == [UNKNOWN_COLOR, alpha, beta]
    assert uns["spikgpt_best_label_colors"].tolist() == [alpha, beta]
    assert uns["spikgpt_label_broad_colors"].tolist() == [UNKNOWN_COLOR, alpha, islet]
    only_beta = altered(annotation, best=np.ones(N_CELLS, dtype=np.int16), rejected=np.zeros(N_CELLS, dtype=bool))
    assert only_beta.uns()["spikgpt_label_colors"].tolist() == [beta]


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_scanpy_uses_the_colours(annotation: Annotation) -> None:
    adata = cells(annotation)
    annotation.write_to(adata)
    colors = adata.uns["spikgpt_label_colors"].tolist()
    adata.obsm["X_umap"] = np.random.default_rng(0).random((N_CELLS, 2))
    figure = scanpy.pl.umap(adata, color="spikgpt_label", show=False, return_fig=True)
    assert adata.uns["spikgpt_label_colors"].tolist() == colors
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["Unknown", "alpha", "beta"]
    matplotlib.pyplot.close(figure)


def test_suspicious_results_give_a_warning_and_a_stored_note(annotation: Annotation) -> None:
    strange = altered(annotation, rejected=np.ones(N_CELLS, dtype=bool))
    adata = cells(annotation)
    with pytest.warns(
        SpikGPTWarning, match="100% of the cells are Unknown; is 'hand-made' the right reference"
    ) as warned:
        strange.write_to(adata)
    assert adata.uns["spikgpt"]["notes"].tolist() == strange.notes() == [str(warned[0].message)]
    assert set(adata.obs["spikgpt_label"]) == {"Unknown"}


def test_replaced_columns_of_another_tool_are_noted(annotation: Annotation) -> None:
    adata = cells(annotation, spikgpt_label=["mine"] * N_CELLS)
    adata.obsm["spikgpt_probabilities"] = np.ones((N_CELLS, 3))
    adata.uns["spikgpt_label_colors"] = ["#000000"]
    replaced = "obs['spikgpt_label'], obsm['spikgpt_probabilities'], uns['spikgpt_label_colors']"
    note = (
        f"Data of other tools in {replaced} was replaced. To keep such data, use key_added='NAME' (--key-added NAME)."
    )
    assert annotation.notes(adata) == [note]
    with pytest.warns(SpikGPTWarning) as warned:
        annotation.write_to(adata)
    assert [str(warning.message) for warning in warned] == adata.uns["spikgpt"]["notes"].tolist() == [note]
    # Labels of SpikGPT are replaced without a note.
    annotation.write_to(adata)
    assert annotation.notes(adata) == adata.uns["spikgpt"]["notes"].tolist() == []


def test_replaced_labels_of_another_reference_are_noted(annotation: Annotation, tmp_path: Path) -> None:
    adata = cells(annotation, spikgpt_cluster_label=["a"] * N_CELLS)
    altered(annotation, reference_digest="11").write_to(adata)
    other = altered(annotation, reference_name="liver", reference_digest="22", typicality=None)
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    for target in (adata, anndata.read_h5ad(tmp_path / "labelled.h5ad")):
        (note,) = other.notes(target)
        assert "The labels by the reference 'hand-made' were replaced." in note
        columns = ("typicality", "familiarity", "cluster_label")
        kept = " and ".join(f"obs['spikgpt_{name}']" for name in columns)
        assert f"{kept} may still be by 'hand-made'" in note
        assert "--key-added" in note
    # The same reference gives no note; another reference of the same name gives a note.
    assert altered(annotation, reference_digest="11").notes(adata) == []
    assert "'hand-made' of the digest 11 were replaced" in altered(annotation, reference_digest="33").notes(adata)[0]
    # With another key_added, the earlier columns stay as they are.
    before = adata.copy()
    beside = altered(other, key_added="liver")
    beside.write_to(adata)
    pd.testing.assert_frame_equal(adata.obs[before.obs.columns.tolist()], before.obs)
    added = [
        f"liver_{name}"
        for name in ("label", "best_label", "label_broad", "ontology_term_id", "ontology_label", "confidence")
    ]
    assert adata.obs.columns.tolist() == [*before.obs.columns, *added]
    assert set(adata.obsm) == {"spikgpt_probabilities", "liver_probabilities"}
    assert (adata.uns["spikgpt"]["reference"], adata.uns["liver"]["reference"]) == ("hand-made", "liver")
    assert adata.uns["liver_label_colors"].tolist() == adata.uns["spikgpt_label_colors"].tolist()
    assert beside.table().columns.tolist()[:6] == added


def test_replaced_columns_of_unknown_origin_are_noted(annotation: Annotation) -> None:
    first, second = altered(annotation, reference_name="lung"), altered(annotation, reference_name="liver")
    adata = cells(annotation)
    first.write_to(adata)
    # Concatenation keeps obs and drops uns, so the origin of the columns is not known.
    joined = anndata.concat([adata])
    assert not joined.uns
    with pytest.warns(
        SpikGPTWarning, match=r"obs\['spikgpt_label'\], .* was replaced. To keep such data, use key_added"
    ):
        second.write_to(joined)
    # The keys "lung" and "lung_best" share the column "lung_best_label".
    odd = altered(annotation, key_added="lung_best")
    altered(first, key_added="lung").write_to(adata)
    assert "obs['lung_best_label']" in odd.notes(adata)[0]


def test_a_replaced_uns_entry_of_another_tool_is_noted(annotation: Annotation) -> None:
    adata = cells(annotation)
    adata.uns["leiden"] = {"params": {"resolution": 1.0}}
    (note,) = altered(annotation, key_added="leiden").notes(adata)
    assert note.startswith("Data of other tools in uns['leiden'] was replaced. To keep such data, use key_added=")


def test_a_view_is_labelled_and_its_parent_is_not(annotation: Annotation) -> None:
    parent = AnnData(np.ones((2 * N_CELLS, 1), dtype=np.float32))
    parent.uns["title"] = "made up"
    view = parent[::2]
    with pytest.warns(SpikGPTWarning, match=r"view of an AnnData.*parent has no labels") as warned:
        annotation.write_to(view)
    assert len(warned) == 1
    assert view.obs["spikgpt_label"].tolist() == annotation.labels.tolist()
    assert view.uns["spikgpt"]["reference"] == "hand-made"
    assert (list(parent.obs), list(parent.obsm), list(parent.uns)) == ([], [], ["title"])


def test_the_repr_counts_the_cells_of_each_label(annotation: Annotation) -> None:
    assert repr(annotation) == "Annotation of 12 cells by 'hand-made': alpha 3, beta 3, Unknown 6 (50.0%)"
    names = tuple("abcdefgh")
    best = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 0], dtype=np.int16)
    many = altered(annotation, label_names=names, label_ids=(None,) * 8, best=best, rejected=np.arange(N_CELLS) == 11)
    assert repr(many) == "Annotation of 12 cells by 'hand-made': a 3, b 2, c 1, d 1, e 1, ..., Unknown 1 (8.3%)"


def test_the_html_repr_escapes_names_and_lists_the_labels(annotation: Annotation) -> None:
    report = dataclasses.replace(annotation.input_report, notes=("One <u>note</u>\n.",))
    other = Compatibility(OTHER, "it <s>barks", {})
    changed = {
        "label_names": ("<b>al&pha", "beta"),
        "reference_name": "<i>",
        "input_report": report,
        "compatibility": other,
    }
    html = altered(annotation, **changed)._repr_html_()
    for stated in (
        "<p>5 of the reference&#x27;s 7 genes are in the query.</p>",
        "<p>Unknown: 6 of 12 cells (50.0%).</p>",
        "<p>Rule for Unknown: OOD score above 0.</p>",
        "<p>12 cells by &#x27;&lt;i&gt;&#x27;.</p>",
        "<p>Note: One &lt;u&gt;note&lt;/u&gt;\\n.</p>",
        "Read counts from X; scaling: reference.",
    ):
        assert stated in html
    assert html.startswith(
        "<p><strong>The cells are of another tissue or species; do not use the labels: it &lt;s&gt;barks.</strong></p>"
    )
    assert html.count("it &lt;s&gt;barks") == 1
    assert "<b>" not in html
    assert "<i>" not in html
    right = '<td style="text-align:right">'
    alpha, unknown = "&lt;b&gt;al&amp;pha</td>", "Unknown</td>"
    assert f'color:{palette(2)[0]}">&#9632;</span> {alpha}{right}3</td>{right}25.0%</td>{right}' in html
    # The row of Unknown shows no confidence.
    assert f'color:{UNKNOWN_COLOR}">&#9632;</span> {unknown}{right}6</td>{right}50.0%</td>{right}</td>' in html


def test_the_summary_has_cells_share_and_confidence_of_each_label(annotation: Annotation) -> None:
    summary = annotation.summary()
    assert summary.columns.tolist() == ["cells", "share", "confidence"]
    assert list(annotation.counts().items()) == [("Unknown", 6), ("alpha", 3), ("beta", 3)]
    assert summary.loc["Unknown", "confidence"] == pytest.approx(annotation.confidence[:6].mean())
    assert summary["share"].sum() == pytest.approx(1)


def test_the_cells_of_each_label_are_written_as_cas(annotation: Annotation, tmp_path: Path) -> None:
    annotation.to_cas(tmp_path / "labels.json", author_name="Ada Lovelace")
    document = json.loads((tmp_path / "labels.json").read_text())
    assert document["author_name"] == "Ada Lovelace"
    assert [labelset["name"] for labelset in document["labelsets"]] == ["spikgpt_label", "spikgpt_label_broad"]
    sets: dict[tuple[str, str], dict[str, Any]] = {
        (cell_set["labelset"], cell_set["cell_label"]): cell_set for cell_set in document["annotations"]
    }
    beta, islet = sets["spikgpt_label", "beta"], sets["spikgpt_label_broad", "islet cell"]
    assert beta["cell_ids"] == islet["cell_ids"] == ["cell 7", "cell 9", "cell 11"]
    assert (beta["cell_ontology_term_id"], beta["cell_fullname"]) == ("CL:0000169", "type B pancreatic cell")
    assert islet["cell_ontology_term"] == "pancreatic endocrine cell"
    assert beta["author_annotation_fields"]["cells"] == "3"
    unknown = sets["spikgpt_label", "unknown"]
    assert "cell_ontology_term_id" not in unknown
    # Each set of labels names each cell once.
    for name in ("spikgpt_label", "spikgpt_label_broad"):
        ids = [cell for key, cell_set in sets.items() if key[0] == name for cell in cell_set["cell_ids"]]
        assert sorted(ids) == sorted(annotation.obs_names)

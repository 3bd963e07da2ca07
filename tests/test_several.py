"""Annotation by several references: each cell gets the label of the reference that fits best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import Annotation, SpikGPT, annotate
from spikgpt.engines.opening import open_engine
from spikgpt.errors import ConfigError
from spikgpt.explain.query import FittedQuery
from spikgpt.options import AnnotateOptions, EngineOptions
from spikgpt.pipeline import annotate as annotate_by_one
from spikgpt.reference.files import Reference, read_reference
from spikgpt.report.dots import dot_plots
from spikgpt.several import NamedModel, annotate_by_several
from tests.conftest import DATA

OPTIONS = AnnotateOptions(progress=False)


def model_of(reference: Reference, name: str = "") -> NamedModel:
    return NamedModel(name or reference.name, reference, open_engine(reference, EngineOptions(engine="numpy")))


@pytest.fixture(scope="module")
def models(small: Reference, other_tissue: Reference) -> list[NamedModel]:
    return [model_of(small), model_of(other_tissue)]


@pytest.fixture(scope="module")
def pool(few: AnnData, foreign: AnnData) -> AnnData:
    """Return cells of two tissues in alternating order."""
    both = anndata.concat([few, foreign[:, few.var_names]], index_unique="-", keys=["one", "other"], label="tissue")
    return both[np.arange(both.n_obs).reshape(2, -1).T.ravel()].copy()


@pytest.fixture(scope="module")
def labelled_pool(models: list[NamedModel], pool: AnnData) -> Annotation:
    return annotate_by_several(models, pool, OPTIONS)


def test_each_cell_is_labelled_by_the_reference_of_its_tissue(labelled_pool: Annotation, pool: AnnData) -> None:
    own = pool.obs["tissue"].map({"one": "small", "other": "other tissue"}).astype(str)
    named = np.asarray(labelled_pool.columns["reference"]).astype(str)
    assert (named == own).mean() > 0.9
    truth = np.where(own == "small", "", "other ") + pool.obs["cell_type"].astype(str).to_numpy().astype(object)
    known = np.isin(truth.astype(str), labelled_pool.label_names)
    assert (labelled_pool.best_labels == truth)[known].mean() > 0.8
    assert labelled_pool.compatibility is not None
    assert labelled_pool.compatibility.usable


def test_single_references_give_fewer_right_labels(
    models: list[NamedModel], labelled_pool: Annotation, pool: AnnData
) -> None:
    prefix = np.where(pool.obs["tissue"] == "one", "", "other ").astype(object)
    truth = (prefix + pool.obs["cell_type"].astype(str).to_numpy()).astype(str)
    right = (labelled_pool.labels == truth).sum()
    for model in models:
        alone = annotate_by_one(model.reference, model.engine, pool, OPTIONS)
        assert (alone.labels == truth).sum() < right


def test_labels_do_not_depend_on_the_order_of_cells_and_references(
    models: list[NamedModel], labelled_pool: Annotation, pool: AnnData
) -> None:
    order = np.random.default_rng(1).permutation(pool.n_obs)
    again = annotate_by_several(models[::-1], pool[order].copy(), OPTIONS)
    np.testing.assert_array_equal(again.labels, labelled_pool.labels[order])
    expected = np.asarray(labelled_pool.columns["reference"])[order]
    np.testing.assert_array_equal(np.asarray(again.columns["reference"]), expected)


def test_a_reference_of_another_tissue_changes_few_labels(models: list[NamedModel], few: AnnData) -> None:
    expected = annotate_by_one(models[0].reference, models[0].engine, few, OPTIONS)
    annotation = annotate_by_several(models, few, OPTIONS)
    assert (annotation.best_labels == expected.best_labels).mean() > 0.9


def test_the_labels_are_written_with_their_references(
    models: list[NamedModel], pool: AnnData, labelled_pool: Annotation, tmp_path: Path
) -> None:
    adata = pool.copy()
    annotation = annotate(adata, [SpikGPT(model.reference, model.engine) for model in models])
    assert annotation.label_names == labelled_pool.label_names
    np.testing.assert_array_equal(annotation.labels, labelled_pool.labels)
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    read = anndata.read_h5ad(tmp_path / "labelled.h5ad")
    assert set(read.obs["spikgpt_reference"]) == {"small", "other tissue"}
    assert read.uns["spikgpt"]["references"].tolist() == ["small", "other tissue"]
    assert read.obsm["spikgpt_probabilities"].shape == (pool.n_obs, len(annotation.label_names))
    table = annotation.table()
    assert table.shape[1] == 10 + len(annotation.label_names)
    assert len(annotation.label_ids) == len(annotation.label_names)
    assert len(annotation.broad_ids) == len(annotation.broad_names)
    sums = read.obsm["spikgpt_probabilities"].sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert "small + other tissue" in repr(annotation)
    assert annotation.notes() is not None


def test_each_label_is_explained_by_the_reference_that_gave_it(labelled_pool: Annotation, pool: AnnData) -> None:
    explanation = labelled_pool.explain()
    given = labelled_pool.columns["reference"].astype(str)
    known = [group for group in explanation.groups if group.unknown is None]
    assert {group.reference for group in known} == {"small", "other tissue"}
    for group in known:
        assert group.name == f"{group.genes.label} by {group.reference}"
        of_label = (labelled_pool.labels == group.genes.label) & (given == group.reference)
        assert group.cells == of_label.sum() > 0
    assert [group.cells for group in known] == sorted((group.cells for group in known), reverse=True)
    assert [group.unknown is None for group in explanation.groups[: len(known)]] == [True] * len(known)
    table = explanation.table()
    assert set(table["reference"]) == {"small", "other tissue"}
    adata = pool.copy()
    explanation.write_to(adata)
    read = np.isfinite(adata.varm["spikgpt_attributions"])
    for column, group in enumerate(explanation.groups):
        # Each reference reads some of the genes that all references read together.
        assert 0 < read[:, column].sum() < read.any(axis=1).sum()
        best = group.genes.of_role("supporting")[0]
        row = pool.var_names.get_loc(best.gene)
        assert adata.varm["spikgpt_attributions"][row, column] == pytest.approx(best.attribution)
    assert explanation.to_dict()["groups"][0]["reference"] == explanation.groups[0].reference


def test_an_explanation_uses_only_the_cells_of_its_reference(
    models: list[NamedModel], labelled_pool: Annotation, pool: AnnData
) -> None:
    own = np.asarray(labelled_pool.columns["reference"]) == "small"
    alone = annotate_by_one(models[0].reference, models[0].engine, pool, OPTIONS, only=own)
    for group in labelled_pool.explain().groups:
        if group.reference == "small":
            label = ["Unknown" if group.unknown else group.genes.label]
            expected = {part.name: part.genes.genes for part in alone.explain(labels=label).groups}
            assert expected[group.name.removesuffix(" by small")] == group.genes.genes


def test_chosen_cells_clusters_and_labels_are_explained_by_their_reference(
    labelled_pool: Annotation, pool: AnnData
) -> None:
    named = np.asarray(labelled_pool.columns["reference"]).astype(str)
    cells = [5, 0, 3, 2]
    explanation = labelled_pool.explain(cells=cells)
    assert [group.name for group in explanation.groups] == pool.obs_names[cells].tolist()
    assert [group.reference for group in explanation.groups] == named[cells].tolist()
    assert f"by {named[5]}, runner-up" in repr(explanation)
    best = labelled_pool.best_labels
    assert [group.genes.label for group in explanation.groups] == best[cells].tolist()
    adata = pool.copy()
    adata.obs["cluster"] = np.where(np.arange(pool.n_obs) < 100, "10", "9")
    clusters = labelled_pool.explain(adata, cluster_key="cluster").groups
    assert [group.name.partition(" ")[0] for group in clusters] == ["9", "9", "10", "10"]
    assert sum(group.cells for group in clusters) == pool.n_obs
    chosen = labelled_pool.explain(labels=["beta,other beta"])
    assert {group.name for group in chosen.groups} == {"beta by small", "other beta by other tissue"}
    beta = labelled_pool.explain(cells=cells, labels="beta")
    assert {group.reference for group in beta.groups} == {"small"}
    assert beta.notes == ("other tissue has no label beta, so its cells are not explained.",)
    nobody = [label for label in labelled_pool.label_names if label not in labelled_pool.counts()]
    assert (
        labelled_pool.explain(labels=nobody[:1]).notes[0].endswith(f"No cell of the query got the label {nobody[0]}.")
    )
    only_other = labelled_pool.explain(cells=[int(np.flatnonzero(named != "small")[0])], labels=["beta"])
    assert only_other.groups == ()
    assert "Explanation of 0 cells" in repr(only_other)
    for options, message in (
        ({"labels": ["betta"]}, "labels names 'betta', which is not a label.*Did you mean 'beta'"),
        ({"cells": []}, "cells names 0 cells"),
        ({"cells": [1], "cluster_key": "cluster"}, "cells and cluster_key were both passed"),
    ):
        with pytest.raises(ConfigError, match=message):
            labelled_pool.explain(adata, **options)


def test_a_label_of_two_references_is_explained_by_both(models: list[NamedModel], labelled_pool: Annotation) -> None:
    named = {f"other {label}": label for label in models[0].reference.labels.names}
    other = labelled_pool.queries["other tissue"]
    assert isinstance(other, FittedQuery)
    names = tuple(named[name] for name in other.reference.labels.names)
    reference = replace(other.reference, labels=replace(other.reference.labels, names=names))
    both = replace(
        labelled_pool,
        label_names=tuple(named.get(name, name) for name in labelled_pool.label_names),
        queries={**labelled_pool.queries, "other tissue": replace(other, reference=reference)},
    )
    groups = both.explain(labels=["beta"]).groups
    assert {group.name for group in groups} == {"beta by small", "beta by other tissue"}
    first, second = dot_plots(both)
    assert (first.reference, second.reference) == ("small", "other tissue")
    assert "beta" in {row.label for row in first.rows} & {row.label for row in second.rows}


def test_a_single_reference_cannot_explain_an_annotation_by_several(
    models: list[NamedModel], labelled_pool: Annotation
) -> None:
    model = SpikGPT(models[0].reference, models[0].engine)
    with pytest.raises(
        ConfigError, match="by the reference 'small [+] other tissue'; expected one by 'small'. Call an"
    ):
        model.explain(labelled_pool)


def test_the_only_reference_with_labelled_cells_can_explain_the_annotation(
    models: list[NamedModel], few: AnnData
) -> None:
    annotation = annotate_by_several(models, few, OPTIONS)
    model = SpikGPT(models[0].reference, models[0].engine)
    explanation = model.explain(annotation, labels=["beta"])
    assert [group.name for group in explanation.groups] == ["beta by small"]
    expected = r"'other beta', which is not a label of the references that labelled cells \(small\)\. Did you"
    with pytest.raises(ConfigError, match=expected):
        annotation.explain(labels=["other beta"])


def test_explanations_do_not_depend_on_the_order_of_references(labelled_pool: Annotation) -> None:
    reversed_pool = replace(labelled_pool, queries=dict(reversed(list(labelled_pool.queries.items()))))
    labels = ["beta", "other beta"]
    tables = [annotation.explain(labels=labels).table() for annotation in (labelled_pool, reversed_pool)]
    assert len(tables[0])
    pd.testing.assert_frame_equal(*(table.sort_values(["group", "gene"], ignore_index=True) for table in tables))


def test_the_report_has_the_genes_of_each_reference(labelled_pool: Annotation, pool: AnnData, tmp_path: Path) -> None:
    text = labelled_pool.report(tmp_path / "report.html", pool).read_text()
    for name in ("small", "other tissue"):
        assert f"Labels by the reference <bdi>{name}</bdi>" in text
        assert f'aria-label="Dot plot of genes and labels by {name}"' in text
    assert text.count('<table class="dots">') == 2
    assert "Genes of <bdi>beta</bdi> by <bdi>small</bdi>, compared with" in text
    harm = "</h3><script>alert(1)</script>\u202e\n"
    renamed = replace(labelled_pool, queries=dict(zip((harm, "other"), labelled_pool.queries.values(), strict=True)))
    text = renamed.report(tmp_path / "hostile.html", pool).read_text()
    assert "<script>alert" not in text
    assert "Labels by the reference <bdi>&lt;/h3&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\n</bdi>" in text


def test_empty_cells_are_unknown(models: list[NamedModel], pool: AnnData) -> None:
    adata = pool[:40].copy()
    adata.X = sparse.diags((np.arange(40) != 3).astype(np.float32)) @ adata.X
    annotation = annotate_by_several(models, adata, OPTIONS)
    assert annotation.empty.tolist() == [row == 3 for row in range(40)]
    assert annotation.labels[3] == "Unknown"


def test_repeated_references_and_references_without_ood_scores_are_refused(
    models: list[NamedModel], few: AnnData
) -> None:
    with pytest.raises(ConfigError, match="The references are small, small; expected at least one, each once"):
        annotate_by_several([models[0], models[0]], few, OPTIONS)
    old = model_of(read_reference(DATA / "format_1" / "counts"), "old")
    with pytest.raises(ConfigError, match="The reference old has format 1"):
        annotate_by_several([models[0], old], few, OPTIONS)

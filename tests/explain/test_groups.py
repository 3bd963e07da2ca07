"""Explanation of labels, clusters and cells."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.errors import ConfigError, LabelsError
from spikgpt.explain.explanation import Explanation
from spikgpt.explain.groups import GroupExplainer, checked_origin, explain
from spikgpt.explain.query import FittedQuery
from spikgpt.options import ExplainOptions, options_of
from spikgpt.reference.files import Reference
from spikgpt.sampling import sample_of
from spikgpt.scoring.annotation import Annotation
from tests.conftest import labelled


@pytest.fixture(scope="module")
def annotation(small: Reference, query: AnnData) -> Annotation:
    return labelled(small, query)


def explained(annotation: Annotation, adata: AnnData | None = None, cells: Any = None, **options: Any) -> Explanation:
    return explain(annotation, adata, options_of(ExplainOptions, options), cells=cells)


def test_labels_come_first_then_unknown_cells(annotation: Annotation) -> None:
    explanation = explained(annotation)
    names = [group.name for group in explanation.groups]
    known = [name for name in names if not name.startswith("Unknown")]
    assert set(known) == set(annotation.counts()) - {"Unknown"}
    assert names[: len(known)] == known
    assert all(group.unknown is not None for group in explanation.groups[len(known) :])
    assert len(names) > len(known)
    assert sum(group.genes.cells for group in explanation.groups) == len(annotation.best)


def test_chosen_labels_are_explained(annotation: Annotation) -> None:
    explanation = explained(annotation, labels=["beta,Unknown"])
    assert explanation.groups[0].name == "beta"
    assert {group.name.partition(",")[0] for group in explanation.groups} == {"beta", "Unknown"}
    with pytest.raises(ConfigError, match=r"labels names 'betta', which is not a label.*Did you mean 'beta'"):
        explained(annotation, labels=["betta"])


def test_an_excluded_label_is_refused(small: Reference, query: AnnData) -> None:
    with pytest.raises(ConfigError, match="No cell could get the label alpha, because it was excluded"):
        explained(labelled(small, query, exclude=["alpha"]), labels=["alpha"])


def test_a_label_without_cells_is_named(
    small: Reference, query: AnnData, annotation: Annotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    beta = query[annotation.labels == "beta"].copy()
    explanation = explained(labelled(small, beta[:80].copy(), unknown_rate=0), labels=["alpha", "Unknown"])
    assert explanation.groups == ()
    assert explanation.notes == ("No cell of the query got one of the labels alpha, Unknown.",)
    assert "<table" not in explanation._repr_html_()
    monkeypatch.setattr("spikgpt.cells.cell_cache.sample_of", partial(sample_of, limit=150))
    outside = labelled(small, query)
    assert isinstance(outside.query, FittedQuery)
    best, alpha = outside.best.copy(), outside.label_names.index("alpha")
    best[outside.query.rows] = outside.label_names.index("beta")
    count = int(((best == alpha) & ~outside.rejected).sum())
    assert count > 1
    explainer = GroupExplainer(replace(outside, best=best), outside.query, None, ExplainOptions())
    explainer._note_absent(["alpha"])
    assert explainer.notes == [
        f"{count} cells of the query got the label alpha, but no such cell is in the sample of 150 cells that is "
        "explained. Name such cells (cells=, --cells)."
    ]


def test_few_cells_are_explained_without_neighbours(small: Reference, query: AnnData) -> None:
    annotation = labelled(small, query[:40].copy(), unknown_rate=0.5)
    assert not annotation.smoothed
    explanation = explained(annotation)
    assert sum(group.genes.cells for group in explanation.groups) == 40
    assert any(group.unknown is not None for group in explanation.groups)
    (single,) = explained(labelled(small, query[:1].copy())).groups
    assert single.genes.cells == 1


def test_clusters_get_their_most_frequent_label(annotation: Annotation, query: AnnData) -> None:
    cells = query.copy()
    cells.obs["cluster"] = np.where(annotation.labels == "beta", "10", np.where(annotation.labels == "alpha", "9", ""))
    explanation = explained(annotation, cells, cluster_key="cluster")
    assert [(group.name, group.genes.label) for group in explanation.groups] == [("9", "alpha"), ("10", "beta")]
    why_not = explained(annotation, cells, cluster_key="cluster", labels=["delta"])
    assert {group.genes.label for group in why_not.groups} == {"delta"}
    with pytest.raises(LabelsError, match="obs has no column 'leiden'"):
        explained(annotation, cells, cluster_key="leiden")
    with pytest.raises(ConfigError, match="Call annotation.explain\\(adata, cluster_key=...\\)"):
        explained(annotation, cluster_key="cluster")


def test_the_share_of_a_cluster_with_the_label_is_shown(annotation: Annotation, query: AnnData) -> None:
    cells = query.copy()
    cells.obs["cluster"] = "all"
    labels, explanation = annotation.labels, explained(annotation, cells, cluster_key="cluster", labels=["delta"])
    (group,) = explanation.groups
    share = float((labels == "delta").mean())
    assert 0 < share < 0.5
    assert group.cells == len(labels)
    assert group.share == pytest.approx(share)
    assert f"({len(labels)} cells, delta, {share:.0%}, runner-up" in repr(explanation)
    table = explanation.table()
    assert set(table["cells"]) == {len(labels)}
    assert set(table["label_share"]) == {group.share}
    assert set(table["agreement"]) == {group.genes.agreement}
    beta = int(np.flatnonzero(labels == "beta")[0])
    assert "delta (not its label)" in repr(explained(annotation, cells=[beta], labels=["delta"]))


def test_a_label_that_neighbours_decided_gets_a_note(annotation: Annotation) -> None:
    assert isinstance(annotation.query, FittedQuery)
    groups = explained(annotation, labels=["beta"]).groups
    explainer = GroupExplainer(annotation, annotation.query, None, ExplainOptions())
    explainer.note_low_agreement([replace(group, genes=replace(group.genes, agreement=0.6)) for group in groups])
    assert explainer.notes == []
    explainer.note_low_agreement([replace(group, genes=replace(group.genes, agreement=0.4)) for group in groups] * 7)
    assert explainer.notes[0].startswith("The network alone gives another label to most")
    assert "beta and 2 more. Neighbouring" in explainer.notes[0]


def test_cells_are_explained_by_name_or_position(annotation: Annotation, query: AnnData) -> None:
    names = query.obs_names
    explanation = explained(annotation, cells=[names[7], 3])
    assert [group.name for group in explanation.groups] == [names[7], names[3]]
    assert [group.genes.label for group in explanation.groups] == annotation.best_labels[[7, 3]].tolist()
    assert all(group.genes.cells == 1 for group in explanation.groups)
    assert [group.unknown is not None for group in explanation.groups] == annotation.rejected[[7, 3]].tolist()
    single = explained(annotation, cells=names[7])
    np.testing.assert_allclose(single.groups[0].genes.attributions, explanation.groups[0].genes.attributions)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "cells names 0 cells; expected 1 to 1000"),
        ([10_000], "cells names the position 10000; expected 0 to"),
        ([-1], "cells names the position -1"),
        (["no such cell"], "'no such cell', which is not one of the"),
    ],
)
def test_invalid_cells_are_refused(annotation: Annotation, chosen: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explained(annotation, cells=chosen)


def test_empty_cells_are_left_out(small: Reference, query: AnnData) -> None:
    cells = query[:150].copy()
    cells.X = sparse.csr_matrix(sparse.diags((np.arange(150) != 2).astype(np.float32)) @ cells.X)
    explanation = explained(labelled(small, cells), cells=[2, 5])
    assert [group.name for group in explanation.groups] == [cells.obs_names[5]]
    assert explanation.notes == (f"Without counts, these cells are not explained (1): {cells.obs_names[2]}.",)


def test_cells_outside_of_the_sample_are_read(
    small: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikgpt.cells.cell_cache.sample_of", partial(sample_of, limit=150))
    annotation = labelled(small, query)
    assert isinstance(annotation.query, FittedQuery)
    outside = np.setdiff1d(np.arange(query.n_obs), annotation.query.rows)[[0, 5]].tolist()
    with pytest.raises(ConfigError, match="2 named cells are outside of the query's sample of 150 cells"):
        explained(annotation, cells=outside)
    explanation = explained(annotation, query, cells=outside)
    assert [group.name for group in explanation.groups] == query.obs_names[outside].tolist()
    assert [group.genes.label for group in explanation.groups] == annotation.best_labels[outside].tolist()
    assert [group.unknown is not None for group in explanation.groups] == annotation.rejected[outside].tolist()


def test_shards_are_refused(annotation: Annotation) -> None:
    with pytest.raises(ConfigError, match="This annotation of shards keeps no fitted query; expected an annotation of"):
        explained(replace(annotation, query=None))


def test_an_annotation_by_another_reference_is_refused(annotation: Annotation, small: Reference) -> None:
    assert checked_origin(annotation, small) is annotation
    with pytest.raises(ConfigError, match="is by the reference 'pbmc'; expected one by 'small'. Call annotation.expl"):
        checked_origin(replace(annotation, reference_name="pbmc", reference_digest="0" * 64), small)
    with pytest.raises(ConfigError, match=r"'small' in another version \(digest 000000000000, not "):
        checked_origin(replace(annotation, reference_digest="0" * 64), small)


def test_an_annotation_explains_itself(annotation: Annotation, query: AnnData) -> None:
    expected = explained(annotation, labels=["beta"], top=3)
    explanation = annotation.explain(labels=["beta"], top=3)
    assert repr(explanation) == repr(expected)
    assert set(explanation.table()["reference"]) == {"small"}
    cells = query.copy()
    cells.obs["cluster"] = "all"
    assert annotation.explain(cells, cluster_key="cluster").kind == "cluster"
    with pytest.raises(ConfigError, match="has other cells than the annotation"):
        annotation.explain(query[::-1].copy())
    with pytest.raises(ConfigError, match="top is 0; expected a whole number of at least 1"):
        annotation.explain(top=0)
    with pytest.raises(ConfigError, match="not made by SpikGPT.annotate; expected such an annotation"):
        replace(annotation, reporter=None).explain()


def test_cells_and_clusters_exclude_each_other(annotation: Annotation, query: AnnData) -> None:
    with pytest.raises(ConfigError, match="cells and cluster_key were both passed"):
        explained(annotation, query, cells=[1], cluster_key="cell_type")

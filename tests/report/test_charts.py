"""Numbers behind the figures of a report."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.errors import LabelsError
from spikgpt.report import charts
from spikgpt.report.charts import agreement, cluster_column, compositions, histograms, label_rows
from spikgpt.report.columns import Categories, label_columns
from spikgpt.types import UNKNOWN


def labels_of(annotation: Annotation) -> Categories:
    return label_columns(annotation)[0]


def with_rule(annotation: Annotation, **changes: Any) -> Annotation:
    return dataclasses.replace(annotation, rule=dataclasses.replace(annotation.rule, **changes))


def test_labels_have_cells_and_a_confidence_but_not_unknown(annotated: Annotation) -> None:
    rows = label_rows(annotated, labels_of(annotated))
    summary = annotated.summary()
    assert {row.label: row.cells for row in rows} == annotated.counts()
    for row in rows:
        assert row.share == pytest.approx(summary["share"][row.label])
        if row.label == UNKNOWN:
            assert row.confidence is None
        else:
            assert row.confidence == pytest.approx(summary["confidence"][row.label], abs=1e-4)
    assert rows[-1].label == UNKNOWN


def test_composition_is_that_of_the_batches(annotated: Annotation, query: AnnData) -> None:
    (composition,) = compositions(annotated, labels_of(annotated), query)
    assert (annotated.batch_key, composition.column) == ("donor", "donor")
    for group in composition.groups:
        inside = (query.obs["donor"] == group.name).to_numpy()
        assert group.cells == inside.sum()
        expected = [(annotated.labels[inside] == label).mean() for label in composition.labels]
        np.testing.assert_allclose(group.shares, expected)
    assert {name for name, _ in composition.used} == set(np.unique(annotated.labels))
    assert compositions(annotated, labels_of(annotated), None) == []


def test_the_largest_groups_are_shown(annotated: Annotation, query: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MOST_GROUPS", 1)
    (composition,) = compositions(annotated, labels_of(annotated), query)
    assert composition.groups[0].name == query.obs["donor"].value_counts().index[0]
    assert composition.left_out == 1


def test_several_batch_columns_have_a_figure_each(annotated: Annotation, query: AnnData) -> None:
    adata = query.copy()
    adata.obs["condition"] = np.arange(adata.n_obs) % 2
    both = dataclasses.replace(annotated, batch_key="donor x condition")
    figures = compositions(both, labels_of(both), adata)
    assert [composition.column for composition in figures] == ["donor", "condition"]
    # Inferred batches have no obs column.
    inferred = dataclasses.replace(annotated, batch_key="inferred")
    assert [composition.column for composition in compositions(inferred, labels_of(inferred), adata)] == [
        "donor",
        "condition",
    ]


def test_each_cell_is_in_a_bin(annotated: Annotation) -> None:
    confidence, typicality, ood = histograms(annotated)
    labelled = int((~annotated.rejected).sum())
    # The confidence of Unknown cells is not shown.
    assert (sum(confidence.labelled), sum(confidence.unknown), confidence.cutoffs) == (labelled, 0, ())
    for histogram in (typicality, ood):
        assert sum(histogram.labelled) == labelled
        assert sum(histogram.unknown) == annotated.rejected.sum()
        assert histogram.top == max(np.add(histogram.labelled, histogram.unknown))
    (cutoff,) = ood.cutoffs
    assert cutoff.text == "Unknown above 0"
    # All Unknown cells are above the cut-off.
    assert sum(ood.unknown[: int(cutoff.position * len(ood.unknown))]) == 0


def test_cutoffs_of_other_rules_are_shown(annotated: Annotation) -> None:
    confidence, *_ = histograms(with_rule(annotated, threshold=0.95, ood=None))
    assert [(cutoff.position, cutoff.text) for cutoff in confidence.cutoffs] == [(0.95, "Unknown below 0.95")]
    assert sum(confidence.unknown) == annotated.rejected.sum()
    few, *_ = histograms(with_rule(annotated, least_confidence=0.6))
    assert few.cutoffs[0].text == "Unknown below 0.6, few genes"
    _, typicality, ood = histograms(with_rule(annotated, limits=np.zeros(13), unknown_rate=0.05, ood=None))
    assert typicality.cutoffs[0].position == 0.05
    assert ood.cutoffs == ()
    refused = with_rule(annotated, limits=np.full(13, np.inf), unknown_rate=0.05)
    assert histograms(refused)[1].cutoffs == ()


def test_without_labels_there_is_no_confidence_to_show(annotated: Annotation) -> None:
    nothing = dataclasses.replace(annotated, rejected=np.ones(300, dtype=bool))
    assert [histogram.name for histogram in histograms(nothing)] == ["Typicality", "OOD score"]


def test_agreement_counts_the_labels_of_each_cluster(annotated: Annotation, query: AnnData) -> None:
    chosen = cluster_column(annotated, query, "cell_type")
    assert chosen is not None
    column, source, key = chosen
    assert (source, key) == ("obs['cell_type']", "cell_type")
    table = agreement(column, labels_of(annotated), source)
    types = query.obs["cell_type"].astype(str).to_numpy()
    for row in table.rows:
        expected = [(annotated.labels[types == row.name] == label).mean() for label in table.labels]
        np.testing.assert_allclose(row.shares, expected)
    most = sum(max(row.shares) * row.cells for row in table.rows)
    assert table.agreeing == pytest.approx(most / len(types))


def test_clusters_come_from_the_option_the_vote_or_a_usual_column(annotated: Annotation, query: AnnData) -> None:
    assert cluster_column(annotated, query, None) is None
    assert cluster_column(annotated, None, None) is None
    adata = query.copy()
    adata.obs["Leiden"] = (np.arange(adata.n_obs) % 3).astype(str)
    chosen = cluster_column(annotated, adata, None)
    assert chosen is not None
    assert chosen[2] == "Leiden"
    fine = dataclasses.replace(annotated, clusters=np.arange(-1, len(annotated.best) - 1, dtype=np.int32) % 4)
    voted = cluster_column(fine, adata, None)
    assert voted is not None
    assert (voted[0].name, voted[2], len(voted[0].values)) == ("Fine cluster", None, 4)
    adata.obs["Leiden"] = np.linspace(0, 1, adata.n_obs)
    assert cluster_column(annotated, adata, None) is None
    with pytest.raises(LabelsError, match="obs has no column 'leidn'"):
        cluster_column(annotated, adata, "leidn")

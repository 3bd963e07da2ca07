"""Content of a report."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.options import AnnotateOptions
from spikgpt.report import content as content_module
from spikgpt.report.clusters import summarise
from spikgpt.report.columns import Categories
from spikgpt.report.content import STEPS, report_content
from spikgpt.report.page import page
from spikgpt.scoring.compatibility import OTHER, Compatibility

OPTIONS = AnnotateOptions()


def test_the_content_has_all_parts(annotated: Annotation, query: AnnData) -> None:
    content = report_content(annotated, query, OPTIONS, cluster_key="cell_type", title="My\ncells")
    assert content.title == "My\\ncells"
    assert (content.cells, content.unknown) == (300, annotated.unknown_fraction)
    assert content.known_labels == len(set(annotated.labels) - {"Unknown"})
    assert content.dots
    assert content.agreement is not None
    assert content.map is not None
    names = [column.name for column in content.map.columns]
    assert names[:2] == ["Label", "Best label"]
    assert names[content.map.own] == "cell_type"
    assert names.count("cell_type") == 1
    assert content.map.names.split("\n") == query.obs_names.tolist()
    assert content.map.rows is None


def test_positions_keep_their_proportions(annotated: Annotation, query: AnnData) -> None:
    adata = query.copy()
    own = np.random.default_rng(0).uniform(size=(adata.n_obs, 2)) * [4, 1]
    own[:2] = [[0, 0], [4, 1]]
    own[5] = np.nan
    adata.obsm["X_umap"] = own
    content = report_content(annotated, adata, OPTIONS)
    assert content.map is not None
    assert content.map.positions.max(axis=0).tolist() == [STEPS, round(STEPS / 4)]
    # A cell without a position is left out of each array.
    assert content.map.rows is not None
    assert content.map.rows.tolist() == [row for row in range(300) if row != 5]
    label = content.map.columns[0]
    assert isinstance(label, Categories)
    assert [label.values[code] for code in label.codes] == np.delete(annotated.labels, 5).tolist()
    assert content.map.names.split("\n") == np.delete(query.obs_names, 5).tolist()


def test_candidates_have_marker_genes(annotated: Annotation, query: AnnData) -> None:
    alpha = (query.obs["cell_type"] == "alpha").to_numpy()
    missing = dataclasses.replace(annotated, rejected=annotated.rejected | alpha)
    content = report_content(missing, query, OPTIONS, cluster_key="cell_type")
    assert "alpha" in [cluster.name for cluster in content.candidates]
    markers = next(cluster for cluster in content.candidates if cluster.name == "alpha")
    assert markers.note or markers.markers
    # If clusters are given, they are not computed again.
    report = summarise(missing, query, "cell_type")
    given = report_content(missing, None, OPTIONS, clusters=report)
    assert given.candidates == tuple(cluster for cluster in report.clusters if cluster.candidate)
    assert given.agreement is None


def test_a_refused_reference_has_no_candidates_and_no_genes(annotated: Annotation, query: AnnData) -> None:
    alpha = (query.obs["cell_type"] == "alpha").to_numpy()
    missing = dataclasses.replace(annotated, rejected=annotated.rejected | alpha)
    report = summarise(missing, query, "cell_type")
    refused = dataclasses.replace(missing, compatibility=Compatibility(OTHER, "it barks", {}))
    for clusters in (None, report):
        content = report_content(refused, query, OPTIONS, cluster_key="cell_type", clusters=clusters)
        assert (content.candidates, content.agreement, content.dots) == ((), None, ())
        text = page(content).decode()
        assert text.count("So the report leaves out the genes behind the labels") == 1
        assert not {"dots-title", "agreement-title", "candidates-title"} & set(re.findall(r'id="([\w-]+)"', text))
    content = report_content(missing, query, OPTIONS, cluster_key="cell_type")
    assert content.omitted == ""
    assert content.candidates
    assert content.agreement


def test_names_of_many_cells_are_left_out(
    annotated: Annotation, query: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "MANY_CELLS", 299)
    content = report_content(annotated, query, OPTIONS)
    assert content.map is not None
    assert content.map.names == ""


def test_a_report_without_a_map_has_all_other_parts(annotated: Annotation) -> None:
    names, ids = annotated.label_names[:2], annotated.label_ids[:2]
    bare = dataclasses.replace(annotated, query=None, nearest=None, label_names=names, label_ids=ids)
    bare = dataclasses.replace(bare, best=bare.best % 2, broad=bare.broad * 0)
    content = report_content(bare, None, OPTIONS)
    assert content.map is None
    assert "no map" in content.map_text
    assert (content.dots, content.agreement, content.compositions) == ((), None, ())
    assert content.labels

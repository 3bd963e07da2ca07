"""Clusters are named by the votes of their cells, and candidates for a new type by their marker genes."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData
from msgspec import UNSET, UnsetType
from scipy import sparse

from spikgpt import Annotation
from spikgpt.cells.obs import counted
from spikgpt.cells.reading import open_cells
from spikgpt.errors import LabelsError
from spikgpt.report import clusters as clusters_module
from spikgpt.report.clusters import MOST_CANDIDATES, Cluster, ClusterReport, summarise
from spikgpt.report.markers import MarkerFinder
from spikgpt.scoring.compatibility import LIKE, Compatibility
from spikgpt.types import UNKNOWN


class Labelled(Annotation):
    """Stand-in for an annotation that has only labels and a compatibility."""

    compatibility = Compatibility(LIKE, "made <i>up", {})

    def __init__(self, labels: list[str], best_labels: list[str]) -> None:
        object.__setattr__(self, "given", (np.array(labels), np.array(best_labels)))

    @property
    def labels(self) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
        labels: np.ndarray[tuple[int], np.dtype[np.str_]] = self.__dict__["given"][0]
        return labels

    @property
    def best_labels(self) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
        labels: np.ndarray[tuple[int], np.dtype[np.str_]] = self.__dict__["given"][1]
        return labels


def labelled(best_labels: list[str], *, unknown: list[int] | None = None) -> Labelled:
    """Return an annotation with the given labels before rejection; cells in the rows ``unknown`` are Unknown."""
    rejected = set(unknown or [])
    return Labelled([UNKNOWN if i in rejected else label for i, label in enumerate(best_labels)], best_labels)


def clustered(clusters: Sequence[object]) -> AnnData:
    """Return cells with one gene and the column ``leiden`` of clusters."""
    obs = pd.DataFrame({"leiden": clusters}, index=[f"cell {i}" for i in range(len(clusters))])
    return AnnData(1 + np.arange(len(clusters), dtype=np.float32)[:, None] % 3, obs=obs)


def without_alpha(adata: AnnData, nearest: str = "beta") -> Labelled:
    """Return the true types as an annotation by a reference without alpha; alpha cells get the label ``nearest``."""
    types = adata.obs["cell_type"].astype(str).to_numpy()
    alpha = np.flatnonzero(types == "alpha").tolist()
    return labelled(np.where(types == "alpha", nearest, types).tolist(), unknown=alpha)


def only_candidate(report: ClusterReport) -> Cluster:
    (candidate,) = [cluster for cluster in report.clusters if cluster.candidate]
    return candidate


def genes_of(cluster: Cluster) -> list[str]:
    return [marker.gene for marker in cluster.markers]


def test_votes_equal_those_counted_by_hand() -> None:
    annotation = labelled(["beta", "beta", "beta", "beta", "delta", "delta", "alpha"], unknown=[5])
    report = summarise(annotation, clustered(["1", "1", "1", "1", "1", "0", "0"]), "leiden")
    cluster_0, cluster_1 = report.clusters
    assert (cluster_1.name, cluster_1.cells, cluster_1.label, cluster_1.share, cluster_1.unknown_share) == (
        "1",
        5,
        "beta",
        0.8,
        0.0,
    )
    assert cluster_1.frequencies == {"beta": 0.8, "delta": 0.2}
    assert (cluster_1.nearest, cluster_1.candidate, cluster_1.markers, cluster_1.note) == ("beta", False, (), "")
    assert (cluster_0.frequencies, cluster_0.unknown_share) == ({UNKNOWN: 0.5, "alpha": 0.5}, 0.5)
    assert report.labels.tolist() == ["beta"] * 5 + [UNKNOWN] * 2


def test_ties_are_decided_by_name() -> None:
    report = summarise(labelled(["delta", "beta", "delta", "beta", "gamma"]), clustered([0, 0, 0, 0, 0]), "leiden")
    (cluster,) = report.clusters
    assert (cluster.label, cluster.nearest) == ("beta", "beta")
    assert list(cluster.frequencies) == ["beta", "delta", "gamma"]


def test_clusters_are_in_the_order_of_their_numbers() -> None:
    report = summarise(labelled(["a"] * 4), clustered(["10", "b", "9", "a"]), "leiden")
    assert [cluster.name for cluster in report.clusters] == ["9", "10", "a", "b"]


def test_cells_of_no_cluster_keep_their_label() -> None:
    annotation = labelled(["b", "b", "a", "a longer name"])
    report = summarise(annotation, clustered([0, 0, 0, math.nan]), "leiden")
    assert report.labels.tolist() == ["b", "b", "b", "a longer name"]
    assert [(cluster.name, cluster.cells) for cluster in report.clusters] == [("0", 3)]
    assert report.unclustered_cells == 1


def test_the_error_for_a_missing_column_lists_the_columns() -> None:
    with pytest.raises(LabelsError, match=r"obs has no column 'leidn'; it has leiden. Did you mean 'leiden'\?"):
        summarise(labelled(["a", "b"]), clustered([0, 1]), "leidn")


def test_an_unknown_type_is_found_by_its_hormone(query: AnnData) -> None:
    report = summarise(without_alpha(query), query, "cell_type")
    alpha = only_candidate(report)
    assert (alpha.name, alpha.label, alpha.share, alpha.nearest) == ("alpha", UNKNOWN, 1.0, "beta")
    assert alpha.compared_with == f"{(query.obs['cell_type'] == 'beta').sum()} beta cells"
    assert "GCG" in genes_of(alpha)
    assert 1 < len(alpha.markers) <= 10
    for marker in alpha.markers:
        assert marker.log2_fold_change > 1
        assert marker.adjusted_p < 0.05
        assert 0 <= marker.share_outside < marker.share_inside <= 1


def test_without_cells_of_the_nearest_type_all_other_cells_are_compared(query: AnnData) -> None:
    alpha = only_candidate(summarise(without_alpha(query, "epsilon"), query, "cell_type"))
    assert alpha.nearest == "epsilon"
    assert alpha.compared_with == f"{(query.obs['cell_type'] != 'alpha').sum()} cells of no candidate"
    assert "GCG" in genes_of(alpha)


def test_without_other_cells_there_are_no_markers(query: AnnData) -> None:
    alpha = query[query.obs["cell_type"] == "alpha"]
    cluster = only_candidate(summarise(without_alpha(alpha), alpha, "cell_type"))
    assert (cluster.label, cluster.markers, cluster.compared_with) == (UNKNOWN, (), "")
    assert cluster.note == (
        "No marker genes: the query has fewer than 10 beta cells outside the cluster, and only 0 cells of no candidate "
        "to compare with."
    )


def test_equal_cells_have_no_markers() -> None:
    annotation = labelled(["beta"] * 40, unknown=list(range(20)))
    cluster = only_candidate(summarise(annotation, clustered([0] * 20 + [1] * 20), "leiden"))
    assert cluster.note == "No marker genes: no gene is clearly higher in the cluster."
    assert cluster.compared_with == "20 beta cells"


@pytest.mark.parametrize(("cells", "unknown", "candidate"), [(10, 5, True), (10, 4, False), (9, 9, False)])
def test_a_candidate_needs_ten_cells_and_half_of_them_unknown(cells: int, unknown: int, candidate: bool) -> None:
    annotation = labelled(["Alpha"] * cells, unknown=list(range(unknown)))
    (cluster,) = summarise(annotation, clustered([0] * cells), "leiden").clusters
    assert cluster.candidate == candidate
    # A tie between Unknown and "Alpha" gives Unknown, although "Alpha" comes first by name.
    assert cluster.label == (UNKNOWN if unknown >= 5 else "Alpha")


def test_empty_cells_are_no_candidate_for_a_new_type() -> None:
    (cluster,) = summarise(labelled([UNKNOWN] * 12), clustered([0] * 12), "leiden").clusters
    assert (cluster.label, cluster.candidate, cluster.nearest) == (UNKNOWN, False, None)


def test_an_empty_cell_does_not_change_the_markers(query: AnnData) -> None:
    adata = query.copy()
    counts = adata.X.tolil()
    counts[np.flatnonzero(adata.obs["cell_type"] == "alpha")[0]] = 0
    adata.X = counts.tocsr()
    assert "GCG" in genes_of(only_candidate(summarise(without_alpha(adata), adata, "cell_type")))


def test_a_query_without_readable_values_is_still_labelled(query: AnnData) -> None:
    scaled = AnnData(np.full(query.shape, -1, dtype=np.float32), obs=query.obs)
    alpha = only_candidate(summarise(without_alpha(query), scaled, "cell_type"))
    assert alpha.label == UNKNOWN
    assert alpha.note.startswith("No marker genes: No expression values can be read: X holds negative values")


def test_cells_on_disk_have_the_same_markers(query: AnnData, tmp_path: Path) -> None:
    query.write_h5ad(tmp_path / "query.h5ad")
    in_memory = summarise(without_alpha(query), query, "cell_type")
    with open_cells(tmp_path / "query.h5ad") as stored:
        assert summarise(without_alpha(query), stored, "cell_type").clusters == in_memory.clusters


def test_markers_need_no_scanpy(query: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scanpy", None)
    assert "GCG" in genes_of(only_candidate(summarise(without_alpha(query), query, "cell_type")))


@pytest.mark.parametrize("base", [math.e, 2.0])
def test_log_values_have_the_same_markers_in_any_base(query: AnnData, base: float) -> None:
    counts = only_candidate(summarise(without_alpha(query), query, "cell_type"))
    logs = query.copy()
    logs.X = logs.X.astype(np.float64)
    scanpy.pp.normalize_total(logs, target_sum=1e4)
    logs.X = sparse.csr_matrix(logs.X.log1p() / math.log(base), dtype=np.float32)
    cluster = only_candidate(summarise(without_alpha(logs), logs, "cell_type"))
    assert genes_of(cluster) == genes_of(counts)
    for marker, same in zip(cluster.markers, counts.markers, strict=True):
        assert marker.log2_fold_change == pytest.approx(same.log2_fold_change, rel=1e-2)


def test_the_values_of_a_named_layer_are_compared(query: AnnData) -> None:
    adata = query.copy()
    adata.layers["mine"] = adata.X
    adata.X = None
    alpha = only_candidate(summarise(without_alpha(adata), adata, "cell_type", layer="mine"))
    assert "GCG" in genes_of(alpha)


def test_markers_are_symbols_if_the_index_holds_ids(query: AnnData) -> None:
    adata = query.copy()
    adata.var["feature_id"] = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    adata.var["feature_name"] = adata.var_names
    adata.var_names = adata.var["feature_id"].to_list()
    assert "GCG" in genes_of(only_candidate(summarise(without_alpha(adata), adata, "cell_type")))


def test_repeated_gene_names_are_accepted(query: AnnData) -> None:
    adata = query.copy()
    names = adata.var_names.to_numpy().astype(object)
    names[0] = "GCG"
    adata.var.index = pd.Index(names)
    assert "GCG" in genes_of(only_candidate(summarise(without_alpha(adata), adata, "cell_type")))


def test_the_input_cells_are_not_changed(query: AnnData) -> None:
    before = query.copy()
    summarise(without_alpha(query), query, "cell_type")
    assert (query.X != before.X).nnz == 0
    assert query.X.dtype == before.X.dtype
    pd.testing.assert_frame_equal(query.obs, before.obs)
    pd.testing.assert_frame_equal(query.var, before.var)
    assert dict(query.uns) == dict(before.uns)


def test_large_clusters_are_compared_by_a_sample(query: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikgpt.report.markers.MOST_COMPARED", 20)
    monkeypatch.setattr("spikgpt.report.markers.CHUNK", 50)
    alpha = only_candidate(summarise(without_alpha(query), query, "cell_type"))
    assert "GCG" in genes_of(alpha)
    assert all(round(20 * marker.share_inside, 6).is_integer() for marker in alpha.markers)


def test_cell_sets_hold_the_cells_and_the_markers_of_each_cluster(query: AnnData, annotation: Annotation) -> None:
    report = summarise(without_alpha(query), query, "cell_type")
    described = dataclasses.replace(annotation, obs_names=query.obs_names)
    sets = {cell_set.author_annotation_fields["cluster"]: cell_set for cell_set in report.cell_sets(described)}
    alpha, beta = sets["alpha"], sets["beta"]
    assert (alpha.cell_label, alpha.cell_ontology_term_id) == ("unknown", UNSET)
    assert not isinstance(alpha.marker_gene_evidence, UnsetType)
    assert "GCG" in alpha.marker_gene_evidence
    assert "Compared with" in alpha.rationale
    assert (beta.cell_label, beta.cell_ontology_term_id) == ("beta", "CL:0000169")
    assert beta.marker_gene_evidence is UNSET
    for name, cell_set in sets.items():
        assert cell_set.cell_ids == query.obs_names[query.obs["cell_type"] == name].tolist()


def test_the_table_has_a_row_a_cluster(query: AnnData) -> None:
    report = summarise(without_alpha(query), query, "cell_type")
    table = report.table().set_index("cluster")
    assert len(table) == len(report.clusters) == query.obs["cell_type"].nunique()
    assert table.columns.to_list() == [
        "cells",
        "label",
        "share",
        "unknown share",
        "nearest known type",
        "candidate",
        "frequencies",
        "marker genes",
        "compared with",
        "note",
    ]
    assert table.loc["alpha", "frequencies"] == "Unknown 100%"
    assert "GCG" in str(table.loc["alpha", "marker genes"]).split(", ")
    assert table["candidate"].to_list() == [name == "alpha" for name in table.index]


def test_a_report_shows_its_clusters_and_escapes_names(query: AnnData) -> None:
    report = summarise(without_alpha(query), query, "cell_type")
    labels = query.obs["cell_type"].nunique() - 1
    assert repr(report) == f"ClusterReport: {labels + 1} clusters, {labels} labels, 1 candidate for new types"
    page = report._repr_html_()
    assert page.startswith("<p><strong>The cells are like those of the reference: made &lt;i&gt;up.</strong></p>")
    assert page.count("<tr>") == labels + 2
    assert "GCG" in page
    hostile = summarise(labelled(["<b>x"] * 3 + ["y\u202e"]), clustered(["<s>", "<s>", "<s>", None]), "leiden")
    page = hostile._repr_html_()
    assert "<b>" not in page
    assert "<s>" not in page
    assert "<p>Note: Cells without a cluster keep their own label: 1.</p>" in page


def test_frequencies_as_text() -> None:
    annotation = labelled(["beta"] * 160 + ["delta"] * 39 + ["gamma"])
    report = summarise(annotation, clustered([0] * 200), "leiden")
    assert report.table()["frequencies"].to_list() == ["beta 80%, delta 20%, gamma <1%"]


def test_only_the_largest_of_many_candidates_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counting(_: MarkerFinder, inside: np.ndarray[tuple[int], np.dtype[np.int64]], __: object) -> tuple[()]:
        compared.append(len(inside))
        return ()

    monkeypatch.setattr(MarkerFinder, "markers", counting)
    sizes = [10 + n % 7 for n in range(MOST_CANDIDATES + 30)]
    clusters = np.repeat(np.arange(len(sizes)).astype(str), sizes).tolist()
    annotation = labelled(["beta"] * (len(clusters) + 50), unknown=list(range(len(clusters))))
    report = summarise(annotation, clustered(clusters + ["known"] * 50), "leiden")
    assert sorted(compared) == sorted(sizes)[-MOST_CANDIDATES:]
    without = [cluster for cluster in report.clusters if "only the largest 100" in cluster.note]
    assert len(without) == 30
    assert all(cluster.candidate and not cluster.compared_with for cluster in without)


def test_thousands_of_clusters_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def counting(labels: np.ndarray[tuple[int], np.dtype[np.str_]]) -> dict[str, int]:
        nonlocal looked_at
        looked_at += len(labels)
        return counted(labels)

    monkeypatch.setattr(clusters_module, "counted", counting)
    clusters = np.tile(np.arange(3000), 2)[::-1].astype(str)
    report = summarise(labelled(["beta", "delta", "beta"] * 2000), clustered(clusters.tolist()), "leiden")
    assert [cluster.name for cluster in report.clusters] == [str(n) for n in range(3000)]
    assert looked_at == 2 * len(clusters)

"""Label the clusters of a query by the majority of their cells, and find candidates for a new type."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from spikgpt.cells.expression import find_expression
from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import ConfigError, DataError, with_noun
from spikgpt.report.markers import MarkerFinder, MarkerGene
from spikgpt.sampling import rows_by_label
from spikgpt.scoring.annotation import CLUSTER_LABEL, Annotation
from spikgpt.scoring.cas import CellSet
from spikgpt.scoring.ontology import NO_TERM, term_of
from spikgpt.tables import by_number, html_table, html_view
from spikgpt.types import UNKNOWN, Bools, Rows, Strings

# A cluster with at least this share of Unknown cells may be a new type.
CANDIDATE_SHARE = 0.5
# Smallest number of cells of a candidate, and of the cells with which a candidate is compared.
CELLS_TO_COMPARE = 10
# Largest number of candidates with marker genes: each comparison reads cells again.
MOST_CANDIDATES = 100


@dataclass(frozen=True)
class Cluster:
    """A cluster and the labels of its cells.

    Attributes
    ----------
    label
        The most frequent label of its cells; Unknown for a candidate.
    frequencies
        Share of cells with each label, the largest first.
    nearest
        The most frequent label before rejection; None if no cell has counts.
    candidate
        True if the cluster may be a new type.
    markers
        Marker genes of a candidate, best first.
    compared_with
        Description of the cells that the marker genes compare the cluster with; empty without marker genes.
    note
        Reason why a candidate has no marker genes; empty otherwise.
    rows
        Row numbers of the cells in the query.
    """

    name: str
    cells: int
    label: str
    frequencies: dict[str, float]
    nearest: str | None
    candidate: bool
    markers: tuple[MarkerGene, ...] = ()
    compared_with: str = ""
    note: str = ""
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False)

    @property
    def share(self) -> float:
        """Share of cells with the cluster's label."""
        return self.frequencies[self.label]

    @property
    def unknown_share(self) -> float:
        """Share of Unknown cells."""
        return self.frequencies.get(UNKNOWN, 0.0)


@dataclass(frozen=True, repr=False)
class ClusterReport:
    """The clusters of n cells.

    ``labels``, shape (n,), has the label of the cluster of each cell, or the cell's own label if it has no cluster.
    ``verdict`` is the sentence on the compatibility of the query and the reference; None for a reference of format 1.
    """

    clusters: tuple[Cluster, ...]
    labels: Strings
    unclustered_cells: int
    verdict: str | None = None

    def table(self) -> pd.DataFrame:
        """Return a table with one row per cluster."""
        rows = [
            {
                "cluster": cluster.name,
                "cells": cluster.cells,
                "label": cluster.label,
                "share": cluster.share,
                "unknown share": cluster.unknown_share,
                "nearest known type": cluster.nearest or "",
                "candidate": cluster.candidate,
                "frequencies": ", ".join(f"{name} {_percent(share)}" for name, share in cluster.frequencies.items()),
                "marker genes": ", ".join(marker.gene for marker in cluster.markers),
                "compared with": cluster.compared_with,
                "note": cluster.note,
            }
            for cluster in self.clusters
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        clusters = with_noun(len(self.clusters), "cluster")
        candidates = with_noun(sum(cluster.candidate for cluster in self.clusters), "candidate")
        labels = len({cluster.label for cluster in self.clusters if cluster.label != UNKNOWN})
        return f"ClusterReport: {clusters}, {with_noun(labels, 'label')}, {candidates} for new types"

    def _repr_html_(self) -> str:
        rows = [
            (
                cluster.name,
                f"{cluster.cells:,}",
                cluster.label,
                _percent(cluster.share),
                cluster.nearest if cluster.candidate and cluster.nearest else "",
                ", ".join(marker.gene for marker in cluster.markers),
            )
            for cluster in self.clusters
        ]
        columns = ("cluster", "cells", "label", "share of its cells", "nearest known type", "marker genes")
        notes = [f"{cluster.name}: {cluster.note}" for cluster in self.clusters if cluster.note]
        if self.unclustered_cells:
            notes.append(f"Cells without a cluster keep their own label: {self.unclustered_cells:,}.")
        texts = [repr(self)] if self.verdict else []
        return html_view(self.verdict or repr(self), texts, [html_table(columns, rows, numbers=6)], notes)

    def cell_sets(self, annotation: Annotation) -> list[CellSet]:
        """Return the set of cells of each cluster, with its marker genes, for :meth:`spikgpt.Annotation.to_cas`."""
        terms = dict(zip(annotation.label_names, map(term_of, annotation.label_ids), strict=True))
        names = np.asarray(annotation.obs_names[:], dtype=object).astype(str)
        return [
            CellSet.from_label(
                annotation.named(CLUSTER_LABEL),
                cluster.label,
                terms.get(cluster.label, NO_TERM),
                names[cluster.rows].tolist(),
                " ".join(
                    [annotation.rationale, *([f"Compared with {cluster.compared_with}."] if cluster.markers else [])]
                ),
                {
                    "cluster": cluster.name,
                    "cells": cluster.cells,
                    "share": f"{cluster.share:.4f}",
                    "unknown_share": f"{cluster.unknown_share:.4f}",
                    "nearest_known_type": cluster.nearest or "",
                },
                [marker.gene for marker in cluster.markers],
            )
            for cluster in self.clusters
        ]


def summarise(
    annotation: Annotation,
    adata: AnnData,
    cluster_key: str | None = None,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
) -> ClusterReport:
    """Give each cluster the most frequent label of its cells, and find marker genes of clusters that may be a new type.

    A cluster is a candidate for a new type if it has at least 10 cells and at least half of them are Unknown. Marker
    genes of a candidate have a log2 fold change above 1, and an adjusted p-value below 0.05 in a Wilcoxon rank-sum
    test on log-normalised values. The test compares the cluster with the cells of the nearest known type. If the query
    has fewer than 10 cells of this type, the test compares the cluster with all cells outside the candidates. At most
    5000 cells of the cluster and 5000 other cells are compared. Only the 100 largest candidates get marker genes.

    Parameters
    ----------
    annotation
        Labels of the cells of ``adata``, in the same order.
    adata
        The annotated query, which is not changed.
    cluster_key
        Column of ``obs`` with the clusters. Cells without a value belong to no cluster. None for the clusters of
        ``annotate(..., majority_vote=True)``.
    layer, gene_key
        As for :meth:`spikgpt.SpikGPT.annotate`.

    Raises
    ------
    LabelsError
        When the column does not exist, contains a measurement such as the number of counts, or is empty.
    ConfigError
        When no column is named, and the annotation has no clusters.
    """
    names, clustered = own_clusters(annotation) if cluster_key is None else labels_of(adata, cluster_key)
    labels, best_labels = annotation.labels, annotation.best_labels
    members = _members(names, clustered)
    clusters = [replace(_labelled(name, labels[rows], best_labels[rows]), rows=rows) for name, rows in members.items()]
    candidates = sorted((cluster for cluster in clusters if cluster.candidate), key=lambda cluster: -cluster.cells)
    if candidates:
        in_candidates = np.isin(names, [cluster.name for cluster in candidates])
        finder = _marker_finder(adata, layer, gene_key)
        many = f"{len(candidates)} clusters may be a new type, and only the largest {MOST_CANDIDATES} get some"
        marked = {cluster.name: replace(cluster, note=f"No marker genes: {many}.") for cluster in candidates}
        # Sorted by nearest type: candidates of one type are compared with the same cells, which are read once.
        for cluster in sorted(candidates[:MOST_CANDIDATES], key=lambda cluster: cluster.nearest or ""):
            rows = members[cluster.name]
            marked[cluster.name] = _with_markers(cluster, rows, labels, in_candidates, finder)
        clusters = [marked.get(cluster.name, cluster) for cluster in clusters]
    by_cell, unclustered = _of_cells(labels, members, clusters), int((~clustered).sum())
    return ClusterReport(
        tuple(clusters), by_cell, unclustered, annotation.compatibility.sentence if annotation.compatibility else None
    )


def majority(annotation: Annotation, names: Strings, clustered: Bools) -> Strings:
    """Return the label of the cluster of each cell, or the cell's own label if it has no cluster, shape (n,).

    Parameters
    ----------
    names, clustered
        Cluster of each cell, and True for cells with a cluster, each of shape (n,).
    """
    labels, best_labels, members = annotation.labels, annotation.best_labels, _members(names, clustered)
    clusters = [_labelled(name, labels[rows], best_labels[rows]) for name, rows in members.items()]
    return _of_cells(labels, members, clusters)


def own_clusters(annotation: Annotation) -> tuple[Strings, Bools]:
    """Return the fine cluster of each cell as text, and True for cells with a cluster, each of shape (n,).

    Raises
    ------
    ConfigError
        When the annotation has no clusters.
    """
    if annotation.clusters is None:
        msg = "This annotation has no clusters; pass cluster_key, or annotate with majority_vote=True."
        raise ConfigError(msg)
    return annotation.clusters.astype(np.str_), annotation.clusters >= 0


def _of_cells(labels: Strings, members: dict[str, Rows], clusters: list[Cluster]) -> Strings:
    """Return the label of the cluster of each cell, from the cells' own labels, shape (n,)."""
    by_cell = labels.astype(object)
    for cluster in clusters:
        by_cell[members[cluster.name]] = cluster.label
    return by_cell.astype(np.str_)


def _members(names: Strings, clustered: Bools) -> dict[str, Rows]:
    """Return the rows of each cluster from the cluster of each cell, shape (n,); cluster 9 comes before cluster 10."""
    members, rows = rows_by_label(names[clustered]), np.flatnonzero(clustered)
    return {name: rows[members[name]] for name in sorted(members, key=by_number)}


def _labelled(name: str, labels: Strings, best_labels: Strings) -> Cluster:
    """Return a cluster labelled by the majority of its cells, without marker genes."""
    frequencies = _frequencies(labels)
    nearest = next(iter(_frequencies(best_labels[best_labels != UNKNOWN])), None)
    mostly_unknown = frequencies.get(UNKNOWN, 0.0) >= CANDIDATE_SHARE
    candidate = mostly_unknown and len(labels) >= CELLS_TO_COMPARE and nearest is not None
    return Cluster(
        name=name,
        cells=len(labels),
        label=UNKNOWN if candidate else next(iter(frequencies)),
        frequencies=frequencies,
        nearest=nearest,
        candidate=candidate,
    )


def _frequencies(labels: Strings) -> dict[str, float]:
    """Return the share of each label, the largest first, equal shares by name."""
    return {name: cells / len(labels) for name, cells in counted(labels).items()}


def _marker_finder(adata: AnnData, layer: str | None, gene_key: str | None) -> MarkerFinder | DataError:
    """Return a MarkerFinder for the query, or the caught DataError if the query has no expression values."""
    try:
        return MarkerFinder(find_expression(adata, layer=layer, gene_key=gene_key), gene_key)
    except DataError as error:
        return error


def _with_markers(
    cluster: Cluster,
    inside: Rows,
    labels: Strings,
    in_candidates: Bools,
    finder: MarkerFinder | DataError,
) -> Cluster:
    """Return a candidate with its marker genes, or with a note on the reason why it has none."""
    if isinstance(finder, DataError):
        return replace(cluster, note=f"No marker genes: {finder}")
    elsewhere = np.ones(len(labels), dtype=bool)
    elsewhere[inside] = False
    outside, described = np.flatnonzero(elsewhere & (labels == cluster.nearest)), f"{cluster.nearest} cells"
    if len(outside) < CELLS_TO_COMPARE:
        outside, described = np.flatnonzero(~in_candidates), "cells of no candidate"
    if len(outside) < CELLS_TO_COMPARE:
        note = (
            f"No marker genes: the query has fewer than {CELLS_TO_COMPARE} {cluster.nearest} cells outside the "
            f"cluster, and only {with_noun(len(outside), 'cell')} of no candidate to compare with."
        )
        return replace(cluster, note=note)
    try:
        markers = finder.markers(inside, outside)
    except DataError as error:
        return replace(cluster, note=f"No marker genes: {error}")
    note = "" if markers else "No marker genes: no gene is clearly higher in the cluster."
    return replace(cluster, markers=markers, compared_with=f"{len(outside)} {described}", note=note)


def _percent(share: float) -> str:
    return "<1%" if share < 0.01 else f"{100 * share:.0f}%"

"""What the clusters of a query are, by the labels of their cells, and which of them may be a new type."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.cells.expression import find_expression
from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import DataError
from spikgpt.report.markers import MarkerFinder, MarkerGene
from spikgpt.sampling import rows_by_label
from spikgpt.scoring.annotation import Annotation
from spikgpt.types import UNKNOWN, Bools, Rows, Strings

# A cluster with at least this share of Unknown cells may be a new type.
CANDIDATE_SHARE = 0.5
# Cells that a candidate needs, and cells to compare it with.
CELLS_TO_COMPARE = 10
# Candidates that get marker genes at most, the largest first: each comparison reads cells anew.
MOST_CANDIDATES = 100


@dataclass(frozen=True)
class Cluster:
    """A cluster and the votes of its cells.

    Attributes
    ----------
    label
        The most frequent label, the first by name among equals; Unknown for a candidate.
    frequencies
        Share of the cells that each label has, the largest first.
    nearest
        The most frequent label before rejection, or None when all cells are empty.
    candidate
        Whether the cluster may be a new type.
    markers
        Marker genes of a candidate, best first.
    compared_with
        The cells outside that the marker genes were found against; empty when there was no comparison.
    note
        Why a candidate has no marker genes; empty when it has some.
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

    @property
    def share(self) -> float:
        """Share of the cells that have the cluster's label."""
        return self.frequencies[self.label]

    @property
    def unknown_share(self) -> float:
        """Share of the cells that are Unknown."""
        return self.frequencies.get(UNKNOWN, 0.0)


@dataclass(frozen=True)
class ClusterReport:
    """The clusters of n cells.

    ``labels`` holds the label of each cell's cluster, shape (n,); cells of no cluster keep their own label.
    """

    clusters: tuple[Cluster, ...]
    labels: Strings
    unclustered_cells: int

    def table(self) -> pd.DataFrame:
        """Return one row a cluster."""
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


def summarise(annotation: Annotation, adata: AnnData, cluster_key: str, *, layer: str | None = None) -> ClusterReport:
    """Let the cells of each cluster vote on its label, and find marker genes of clusters that may be a new type.

    A candidate for a new type has at least 10 cells, half of which or more are Unknown, and is not made of empty cells
    alone. Its marker genes set it apart from the query's cells of the nearest known type or, if there are fewer than
    10 of these, from all cells that are in no candidate: by a Wilcoxon rank-sum test on log-normalised values, with a
    log2 fold change above 1 and an adjusted p below 0.05. At most 5000 cells on each side, evenly spaced, are compared.
    Of more than 100 candidates, the largest 100 get marker genes, and a note says so for the others.

    Parameters
    ----------
    annotation
        Labels of the cells of ``adata``, in the same order.
    adata
        Stays as it is. When its matrix is on disk, only the cells compared are kept in memory.
    cluster_key
        Column of ``obs``. Cells without a value there belong to no cluster.
    layer
        Layer with the expression values; see :func:`spikgpt.cells.expression.find_expression`.

    Raises
    ------
    LabelsError
        When the column does not exist, is a measurement, or holds no cluster.
    """
    names, clustered = labels_of(adata, cluster_key)
    labels, best_labels = annotation.labels, annotation.best_labels
    members = _members(names, clustered)
    clusters = [_voted(name, labels[rows], best_labels[rows]) for name, rows in members.items()]
    candidates = sorted((cluster for cluster in clusters if cluster.candidate), key=lambda cluster: -cluster.cells)
    if candidates:
        in_candidates = np.isin(names, [cluster.name for cluster in candidates])
        finder = _finder_of(adata, layer)
        many = f"{len(candidates)} clusters may be a new type, and only the largest {MOST_CANDIDATES} get some"
        marked = {cluster.name: replace(cluster, note=f"No marker genes: {many}.") for cluster in candidates}
        # By nearest type, as many of the same type are compared with the same cells, which are then read once.
        for cluster in sorted(candidates[:MOST_CANDIDATES], key=lambda cluster: cluster.nearest or ""):
            inside = members[cluster.name]
            marked[cluster.name] = _with_markers(cluster, inside, labels, in_candidates, finder)
        clusters = [marked.get(cluster.name, cluster) for cluster in clusters]
    by_cell = labels.astype(object)
    for cluster in clusters:
        by_cell[members[cluster.name]] = cluster.label
    return ClusterReport(tuple(clusters), by_cell.astype(np.str_), int((~clustered).sum()))


def _members(names: Strings, clustered: Bools) -> dict[str, Rows]:
    """Return the rows of each cluster, cluster 9 before cluster 10, from the cluster of each cell, shape (n,)."""
    members, rows = rows_by_label(names[clustered]), np.flatnonzero(clustered)
    return {name: rows[members[name]] for name in sorted(members, key=_by_number)}


def _by_number(name: str) -> tuple[bool, int, str]:
    """Return a sort key that puts cluster 9 before cluster 10, and numbers before other names."""
    number = name.isdecimal()
    return not number, int(name) if number else 0, name


def _voted(name: str, labels: Strings, best_labels: Strings) -> Cluster:
    """Return a cluster by the labels of its cells, without marker genes."""
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
    """Return the share of each label, the largest first, equal ones by name."""
    return {name: cells / len(labels) for name, cells in counted(labels).items()}


def _finder_of(adata: AnnData, layer: str | None) -> MarkerFinder | DataError:
    """Return a finder of marker genes, or why there is none: a query annotated by an embedding may lack expression."""
    try:
        return MarkerFinder(find_expression(adata, layer=layer))
    except DataError as error:
        return error


def _with_markers(
    cluster: Cluster,
    inside: Rows,
    labels: Strings,
    in_candidates: Bools,
    finder: MarkerFinder | DataError,
) -> Cluster:
    """Return a candidate with its marker genes, or with a note that says why it has none."""
    if isinstance(finder, DataError):
        return replace(cluster, note=f"No marker genes: {finder}")
    elsewhere = np.ones(len(labels), dtype=bool)
    elsewhere[inside] = False
    outside, what = np.flatnonzero(elsewhere & (labels == cluster.nearest)), f"{cluster.nearest} cells"
    if len(outside) < CELLS_TO_COMPARE:
        outside, what = np.flatnonzero(~in_candidates), "cells of no candidate"
    if len(outside) < CELLS_TO_COMPARE:
        note = (
            f"No marker genes: the query has fewer than {CELLS_TO_COMPARE} {cluster.nearest} cells outside the "
            f"cluster, and only {len(outside)} cells of no candidate to compare with."
        )
        return replace(cluster, note=note)
    try:
        markers = finder.markers(inside, outside)
    except DataError as error:
        return replace(cluster, note=f"No marker genes: {error}")
    note = "" if markers else "No marker genes: no gene is clearly higher in the cluster."
    return replace(cluster, markers=markers, compared_with=f"{len(outside)} {what}", note=note)


def _percent(share: float) -> str:
    """Return a share as text, such as 80%."""
    return "<1%" if share < 0.01 else f"{100 * share:.0f}%"

"""Numbers behind the figures of a report: composition, histograms, and the agreement of labels and clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spikgpt.cells.obs import batch_columns, labels_of
from spikgpt.errors import LabelsError
from spikgpt.report.columns import Categories, categories, shortened
from spikgpt.scoring.annotation import Annotation
from spikgpt.types import UNKNOWN, Floats

if TYPE_CHECKING:
    from anndata import AnnData

# A figure of composition shows the 40 largest samples or batches. A report has at most 3 such figures.
MOST_GROUPS, MOST_COMPOSITIONS = 40, 3
# The table of agreement shows the 60 largest clusters.
MOST_CLUSTERS = 60
BINS = 40
# Usual names of columns of obs with clusters, in lower case, in the order of preference.
CLUSTER_KEYS = ("leiden", "louvain", "seurat_clusters", "cluster", "clusters")


@dataclass(frozen=True)
class LabelTotal:
    """Number and share of the cells of a label, and their mean confidence, which is None for Unknown."""

    label: str
    color: str
    cells: int
    share: float
    confidence: float | None


@dataclass(frozen=True)
class Group:
    """A sample or batch: number of cells, and the share of each label in the order of the labels."""

    name: str
    cells: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Composition:
    """Composition of the samples or batches in a column; ``left_out`` is the number of groups that are not shown."""

    column: str
    labels: tuple[str, ...]
    colors: tuple[str, ...]
    groups: tuple[Group, ...]
    left_out: int

    @property
    def used(self) -> list[tuple[str, str]]:
        """Return the labels that occur, with their colours."""
        pairs = zip(self.labels, self.colors, strict=True)
        return [pair for index, pair in enumerate(pairs) if any(group.shares[index] for group in self.groups)]


@dataclass(frozen=True)
class Cutoff:
    """A cut-off of a rule for Unknown, with its position on the axis from 0 to 1."""

    position: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """Numbers of labelled and of Unknown cells in equal bins between ``low`` and ``high``."""

    name: str
    text: str
    low: float
    high: float
    labelled: tuple[int, ...]
    unknown: tuple[int, ...]
    cutoffs: tuple[Cutoff, ...] = ()

    @property
    def top(self) -> int:
        """Return the largest number of cells of a bin."""
        return max(1, *(labelled + unknown for labelled, unknown in zip(self.labelled, self.unknown, strict=True)))


@dataclass(frozen=True)
class ClusterAgreement:
    """Labels of the cells of each cluster.

    Attributes
    ----------
    source
        Description of the clusters.
    rows
        Name and number of cells of each cluster, and the share of each label.
    agreeing
        Share of the cells that have the most frequent label of their cluster.
    left_out
        Number of clusters that are not shown.
    """

    source: str
    labels: tuple[str, ...]
    rows: tuple[Group, ...]
    agreeing: float
    left_out: int


def label_rows(annotation: Annotation, labels: Categories) -> list[LabelTotal]:
    """Return the number of cells and the mean confidence of each label, the largest label first, Unknown last."""
    sums = np.bincount(labels.codes, weights=annotation.confidence, minlength=len(labels.values))
    total = max(len(labels.codes), 1)
    triples = zip(labels.values, labels.colors, labels.counts, sums.tolist(), strict=True)
    return [
        LabelTotal(label, color, cells, cells / total, None if label == UNKNOWN or not cells else sum_ / cells)
        for label, color, cells, sum_ in triples
    ]


def compositions(annotation: Annotation, labels: Categories, adata: AnnData | None) -> list[Composition]:
    """Return the share of each label in each sample or batch.

    The groups are the references if there are several, and the values of the columns of the batch key. If the batch key
    is no column of obs, columns such as ``sample`` are used.
    """
    result: list[Composition] = []
    columns = [] if adata is None else _batch_columns(annotation, adata)
    for name, values in [*annotation.columns.items(), *columns]:
        column = categories(str(name), values)
        if column is None or len(column.values) < 2 or len(result) == MOST_COMPOSITIONS:
            continue
        rows, left_out = _shares(column, labels, MOST_GROUPS)
        result.append(Composition(shortened(str(name)), labels.values, labels.colors, rows, left_out))
    return result


def _batch_columns(annotation: Annotation, adata: AnnData) -> list[tuple[str, Any]]:
    """Return the columns of obs that name the batches."""
    obs = adata.obs.to_memory() if hasattr(adata.obs, "to_memory") else adata.obs
    key = annotation.batch_key or ""
    names = [key] if key in obs else key.split(" x ")
    if not names or not all(name in obs for name in names):
        names = batch_columns(obs, "auto")
    return [(name, obs[name]) for name in dict.fromkeys(names)]


def _shares(column: Categories, labels: Categories, most: int) -> tuple[tuple[Group, ...], int]:
    """Return the share of each label among the cells of each value of a column.

    Only the ``most`` values with the most cells are returned, and the number of values that are left out.
    """
    size = len(labels.values)
    crossed = column.codes.astype(np.int64) * size + labels.codes
    counts = np.bincount(crossed, minlength=len(column.values) * size).reshape(-1, size)
    cells = counts.sum(axis=1)
    largest = np.sort(np.argsort(-cells, kind="stable")[:most])
    groups = tuple(
        Group(column.values[at], int(cells[at]), tuple((counts[at] / max(cells[at], 1)).tolist()))
        for at in largest.tolist()
        if cells[at]
    )
    return groups, int((cells > 0).sum()) - len(groups)


def histograms(annotation: Annotation) -> list[Histogram]:
    """Return the distributions of confidence, typicality and OOD score, with the cut-offs for Unknown."""
    rule, figures = annotation.rule, []
    filled, rejected = ~annotation.empty, annotation.rejected
    limits = [(rule.threshold, "Unknown below {:.3g}"), (rule.least_confidence, "Unknown below {:.3g}, few genes")]
    cutoffs = tuple(Cutoff(limit, text.format(limit)) for limit, text in limits if limit is not None)
    # The confidence of Unknown cells is shown only if the rule for Unknown uses the confidence.
    shown = filled if cutoffs else filled & ~rejected
    text = "Calibrated probability of the best label."
    if shown.any():
        figures.append(_histogram("Confidence", text, annotation.confidence, shown, rejected, (0, 1), cutoffs))
    if annotation.typicality is not None:
        text = "Conformal p-value: the share of held-out reference cells that are less typical."
        figures.append(
            _histogram("Typicality", text, annotation.typicality, filled, rejected, (0, 1), _limits(annotation))
        )
    if annotation.ood_score is not None and np.isfinite(annotation.ood_score).any():
        score = annotation.ood_score
        stated = score[np.isfinite(score)]
        low, high = (float(value) for value in np.quantile(stated, [0.002, 0.998]))
        low, high = min(low, -0.1), max(high, 0.1)
        position = (0 - low) / (high - low)
        text = "Distance from the cells of the same label, batch effect removed. The rule for Unknown uses this score."
        cutoff = (Cutoff(position, "Unknown above 0"),) if rule.ood is not None else ()
        shown = filled & np.isfinite(score)
        figures.append(_histogram("OOD score", text, score, shown, rejected, (low, high), cutoff))
    return figures


def _limits(annotation: Annotation) -> tuple[Cutoff, ...]:
    """Return the cut-off of the typicality; empty unless the rule for Unknown uses limits from held-out cells."""
    rate = annotation.rule.unknown_rate
    if annotation.rule.limits is None or rate is None or not np.isfinite(annotation.rule.limits).any():
        return ()
    return (Cutoff(rate, f"limit of about {rate:g}, which differs by label"),)


def _histogram(
    name: str,
    text: str,
    values: Floats,
    shown: npt.NDArray[np.bool_],
    rejected: npt.NDArray[np.bool_],
    limits: tuple[float, float],
    cutoffs: tuple[Cutoff, ...],
) -> Histogram:
    """Count the labelled and the Unknown cells in equal bins between two limits; only cells in ``shown`` count."""
    low, high = limits
    bins = np.clip((values[shown] - low) / (high - low) * BINS, 0, BINS - 1).astype(np.int64)
    unknown = rejected[shown]
    labelled, unknown_counts = (np.bincount(bins[chosen], minlength=BINS).tolist() for chosen in (~unknown, unknown))
    return Histogram(name, text, low, high, tuple(labelled), tuple(unknown_counts), cutoffs)


def cluster_column(
    annotation: Annotation, adata: AnnData | None, cluster_key: str | None
) -> tuple[Categories, str, str | None] | None:
    """Return the clusters of the cells, a description, and the name of their column of obs; None without clusters.

    Raises
    ------
    LabelsError
        When there is no column ``cluster_key``.
    """
    if annotation.clusters is not None and cluster_key is None:
        numbers = [str(number) for number in range(annotation.clusters.max(initial=-1) + 1)]
        column = categories("Fine cluster", pd.Categorical.from_codes(annotation.clusters, pd.Index(numbers)))
        text = "fine clusters that SpikGPT made for the vote of the majority"
        return None if column is None else (column, text, None)
    if adata is None:
        return None
    if cluster_key is None:
        columns: dict[str, str] = {str(name).lower(): name for name in adata.obs.columns}
        cluster_key = next((columns[key] for key in CLUSTER_KEYS if key in columns), None)
        if cluster_key is None:
            return None
        try:
            values, clustered = labels_of(adata, cluster_key)
        except LabelsError:
            return None
    else:
        values, clustered = labels_of(adata, cluster_key)
    named = values.astype(object)
    named[~clustered] = None
    column = categories(str(cluster_key), named)
    text = f"obs[{shortened(str(cluster_key))!r}]"
    return None if column is None else (column, text, str(cluster_key))


def agreement(clusters: Categories, labels: Categories, source: str) -> ClusterAgreement:
    """Return the labels of the cells of each cluster."""
    size = len(labels.values)
    counts = np.bincount(
        clusters.codes.astype(np.int64) * size + labels.codes, minlength=len(clusters.values) * size
    ).reshape(-1, size)
    rows, left_out = _shares(clusters, labels, MOST_CLUSTERS)
    agreeing = counts.max(axis=1).sum() / max(counts.sum(), 1)
    return ClusterAgreement(source, labels.values, rows, float(agreeing), left_out)

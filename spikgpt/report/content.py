"""Content of a report: all that its page shows, in the order of the page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spikgpt.errors import printable
from spikgpt.options import AnnotateOptions
from spikgpt.report import charts, texts
from spikgpt.report.clusters import Cluster, ClusterReport, summarise
from spikgpt.report.columns import (
    MANY_CELLS,
    Categories,
    Column,
    label_columns,
    obs_columns,
    score_columns,
    shortened,
    shortened_lines,
)
from spikgpt.report.dots import DotPlot, dot_plots
from spikgpt.report.map import CellMap, MapSource, cell_map
from spikgpt.scoring.annotation import Annotation
from spikgpt.types import UNKNOWN

if TYPE_CHECKING:
    from anndata import AnnData

# Number of steps of each axis of the map; positions are stored as whole numbers of steps.
STEPS = 65_535


@dataclass(frozen=True)
class MapContent:
    """Map of a report.

    Attributes
    ----------
    text
        Sentences on the map.
    positions
        Position of each of the k cells of the map, in steps along both axes, shape (k, 2).
    rows
        Row numbers in the query of the cells on the map, shape (k,); None if all cells are on the map.
    columns
        Columns that colour the cells, the labels first; arrays of shape (k,).
    own
        Number of columns of the annotation, which come before those of ``obs``.
    names
        Names of the cells on the map, one per line; empty for more than 200,000 cells.
    """

    text: str
    name: str
    positions: npt.NDArray[np.uint16]
    rows: npt.NDArray[np.uint32] | None
    columns: tuple[Column, ...]
    own: int
    names: str


@dataclass(frozen=True)
class ReportContent:
    """Content of a report, which :func:`spikgpt.report.page.page` turns into HTML."""

    title: str
    cells: int
    unknown: float
    verdict: texts.Verdict
    notes: tuple[str, ...]
    labels: tuple[charts.LabelTotal, ...]
    map: MapContent | None
    map_text: str
    compositions: tuple[charts.Composition, ...]
    batches: str
    histograms: tuple[charts.Histogram, ...]
    agreement: charts.ClusterAgreement | None
    dots: tuple[DotPlot, ...]
    candidates: tuple[Cluster, ...]
    genes: texts.GeneCoverage
    run: tuple[tuple[str, str], ...]
    methods: str
    citations: tuple[str, ...]
    reference: str
    # Columns of obs that the map does not show.
    left_out: tuple[str, ...] = field(default=())
    # Sentence that names the parts without content because the reference does not suit the cells; empty if it does.
    omitted: str = ""

    @property
    def known_labels(self) -> int:
        """Number of labels with cells, without Unknown."""
        return sum(row.cells > 0 and row.label != UNKNOWN for row in self.labels)


def report_content(
    annotation: Annotation,
    adata: AnnData | None,
    options: AnnotateOptions,
    *,
    map_key: str | None = None,
    cluster_key: str | None = None,
    title: str | None = None,
    clusters: ClusterReport | None = None,
    source: MapSource | None = None,
) -> ReportContent:
    """Return the content of a report; see :meth:`spikgpt.report.writer.ReportWriter.write`.

    Raises
    ------
    ConfigError
        When there is no array ``map_key`` of obsm.
    LabelsError
        When there is no column ``cluster_key``.
    """
    cluster_key = cluster_key or options.cluster_key
    clustered = charts.cluster_column(annotation, adata, cluster_key)
    labels = label_columns(annotation)
    of_obs, left_out = obs_columns(annotation, adata)
    if clustered is not None:
        of_obs = [clustered[0], *(column for column in of_obs if column.name != clustered[0].name)]
    usable = annotation.compatibility is None or annotation.compatibility.usable
    agreement = charts.agreement(clustered[0], labels[0], clustered[1]) if usable and clustered is not None else None
    if not usable:
        clusters = None  # the nearest known type has no meaning for cells of another tissue or species
    elif clusters is None and adata is not None and clustered is not None and annotation.rejected.any():
        clusters = summarise(annotation, adata, clustered[2], layer=options.layer, gene_key=options.gene_key)
    positions = cell_map(annotation, adata, map_key, source)
    own: list[Column] = [*labels, *score_columns(annotation)]
    reference = printable(annotation.reference_name)
    return ReportContent(
        title=shortened(title or f"Cell types by the reference {reference}"),
        cells=len(annotation.best),
        unknown=annotation.unknown_fraction,
        verdict=texts.verdict(annotation),
        notes=texts.notes(annotation),
        labels=tuple(charts.label_rows(annotation, labels[0])),
        map=_map_content(positions, own, of_obs, annotation),
        map_text=positions.text,
        compositions=tuple(charts.compositions(annotation, labels[0], adata)),
        batches=texts.batches(annotation, options),
        histograms=tuple(charts.histograms(annotation)),
        agreement=agreement,
        dots=dot_plots(annotation) if usable else (),
        candidates=() if clusters is None else tuple(cluster for cluster in clusters.clusters if cluster.candidate),
        genes=texts.genes(annotation),
        run=tuple(texts.run_facts(annotation, options)),
        methods=texts.methods(annotation),
        citations=tuple(texts.citations(annotation)),
        reference=reference,
        left_out=tuple(left_out),
        omitted="" if usable else texts.OMITTED,
    )


def _map_content(
    positions: CellMap, own: list[Column], of_obs: list[Column], annotation: Annotation
) -> MapContent | None:
    """Return the map of the cells that have a position; None if no cell has a position."""
    rows = positions.placed
    if positions.points is None or not len(rows):
        return None
    whole = len(rows) == len(annotation.best)
    points = positions.points[rows].astype(np.float64)
    least = points.min(axis=0)
    # One scale for both axes, so that distances keep their meaning.
    span = float(np.ptp(points, axis=0).max()) or 1.0
    steps = np.rint((points - least) / span * STEPS).astype(np.uint16)
    names = ""
    if len(rows) <= MANY_CELLS:
        all_names = np.asarray(annotation.obs_names[:], dtype=object)
        names = shortened_lines([str(name) for name in (all_names if whole else all_names[rows]).tolist()])
    return MapContent(
        text=positions.text,
        name=positions.name,
        positions=steps,
        rows=None if whole else rows.astype(np.uint32),
        columns=tuple(column if whole else _part(column, rows) for column in (*own, *of_obs)),
        own=len(own),
        names=names,
    )


def _part(column: Column, rows: npt.NDArray[np.int64]) -> Column:
    """Return a column for some of the cells, from their row numbers."""
    if isinstance(column, Categories):
        return replace(column, codes=column.codes[rows])
    return replace(column, steps=column.steps[rows])

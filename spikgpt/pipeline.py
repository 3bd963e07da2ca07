"""Annotation of a query in two passes, the same for every engine.

1. *Fit*: a :class:`spikgpt.engines.query_model.QueryModel` is fitted to a sample of at most 20,000 cells. The sample
   does not depend on the order of the cells. The model holds the scale of the query's genes, its principal components,
   the sample for the neighbour search, the batch effects, and the rule for Unknown.
2. *Label*: each chunk of cells is labelled with that model alone. So the labels depend on neither chunks nor order, and
   memory does not grow with the number of cells. The model can be saved and sent to other processes.

Each cell passes through the network once. The choice of the scale needs further passes: one over the sample, and two
over at most 1,000 cells of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.cell_cache import CellCache
from spikgpt.cells.expression import Cells
from spikgpt.cells.obs import batches_of, labels_of
from spikgpt.cells.progress import progress_bar, showing
from spikgpt.embedding.base import Engine, QueryCells
from spikgpt.engines.query_model import NEAREST, QueryModel
from spikgpt.engines.restriction import excluded_labels, restrict
from spikgpt.explain.query import FittedQuery
from spikgpt.options import CERTAINTY, AnnotateOptions
from spikgpt.reference.files import Reference
from spikgpt.report.clusters import majority, own_clusters
from spikgpt.report.writer import ReportWriter
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.ontology import BroadLabels
from spikgpt.threads import in_order
from spikgpt.types import Bools, InputReport, Integers, Rows

# Replaces the name of the batch column if the batches were inferred from the cells.
INFERRED = "inferred"


@dataclass(frozen=True)
class CellLabels:
    """Labels and scores of n cells. An empty cell is Unknown, with probabilities of 0.

    Attributes
    ----------
    probabilities, best, broad
        Calibrated probabilities, shape (n, L). Index of the most probable label, and index of the broad label, each of
        shape (n,).
    rejected
        True for Unknown cells, shape (n,).
    typicality, ood_score
        Conformal p-value and out-of-distribution score, each of shape (n,); None if the reference or the rule for
        Unknown gives no such value.
    empty
        True for cells without counts, shape (n,).
    clusters
        Index of the fine cluster of each cell, shape (n,), -1 for empty cells; None without the majority vote.
    nearest
        Positions in the query's sample of the cells nearest to each cell, shape (n, 3), -1 for empty cells.
    """

    probabilities: npt.NDArray[np.float32]
    best: npt.NDArray[np.int16]
    broad: npt.NDArray[np.int16]
    rejected: Bools
    typicality: npt.NDArray[np.float32] | None
    ood_score: npt.NDArray[np.float32] | None
    empty: Bools
    clusters: npt.NDArray[np.int32] | None = None
    nearest: npt.NDArray[np.int32] | None = None

    @classmethod
    def allocate(cls, cells: int, labels: int) -> CellLabels:
        """Allocate arrays for all cells of a query; the concatenation of chunks would take twice the memory."""
        dtypes = np.int16, np.int16, bool, np.float32, np.float32, bool, np.int32
        arrays: list[Any] = [np.zeros(cells, dtype=dtype) for dtype in dtypes]
        arrays.append(np.zeros((cells, NEAREST), dtype=np.int32))
        return cls(np.zeros((cells, labels), dtype=np.float32), *arrays)

    def fill(self, rows: Rows, chunk: CellLabels) -> None:
        """Copy the labels of a chunk of cells into their rows."""
        for name in self.__dataclass_fields__:
            if (values := getattr(chunk, name)) is not None:
                getattr(self, name)[rows] = values


def fit_query(
    reference: Reference,
    engine: Engine,
    cache: CellCache,
    report: InputReport,
    options: AnnotateOptions,
    batches: Integers,
    *,
    check: bool = True,
) -> QueryModel:
    """Fit the model of a query to a sample of its cached cells; this is the first pass.

    Parameters
    ----------
    batches
        Index of the batch of each cell of the query, shape (n,).
    check
        If True, all cells become Unknown if the reference does not suit the query.
    """
    sample, rows = cache.sample()
    model = QueryModel.fit(
        engine, reference.familiarity, sample, rows, batches=batches[rows], report=report, options=options
    )
    return model.with_rule(reference.thresholds, reference.labels.names, options, check=check)


def label_cells(
    reference: Reference,
    engine: Engine,
    model: QueryModel,
    cells: AlignedCells,
    rows: Rows,
    batches: Integers,
    *,
    certainty: float = CERTAINTY,
    batch_size: int | None = None,
) -> CellLabels:
    """Label a chunk of cells with the model of their query; this is the second pass.

    Parameters
    ----------
    cells
        n cells with the genes that the reference's embedding reads.
    rows, batches
        Row number in the query and index of the batch of each cell, each of shape (n,).
    """
    assert model.rule is not None  # fit_query sets the rule
    filled = np.flatnonzero(~cells.empty)
    scores = model.score(engine, cells.part(filled), rows[filled], batches=batches[filled], batch_size=batch_size)
    scores = replace(scores, probabilities=model.calibrated(reference.thresholds, scores.probabilities))
    calibration = reference.thresholds.calibration(model.smoothed)

    def scattered(values: npt.NDArray[Any], empty: Any) -> npt.NDArray[Any]:
        """Return values for all cells, shape (n, ...), from the values of filled cells; empty cells get ``empty``."""
        whole = np.full((len(rows), *values.shape[1:]), empty, dtype=values.dtype)
        whole[filled] = values
        return whole

    probabilities = scattered(scores.probabilities, 0)
    typicality = ood_score = None
    if (ood := model.rule.ood_scores(scores)) is not None:
        ood_score = scattered(ood.astype(np.float32), np.nan)
    if calibration is not None and scores.id_score is not None:
        typicality = scattered(calibration.everything.p_value(scores.id_score).astype(np.float32), 0)
    return CellLabels(
        probabilities=probabilities,
        best=probabilities.argmax(axis=1).astype(np.int16),
        broad=BroadLabels.from_labels(reference.labels).assign(probabilities, certainty),
        rejected=scattered(model.rule.is_unknown(scores), True),
        typicality=typicality,
        ood_score=ood_score,
        empty=cells.empty,
        clusters=None if scores.clusters is None else scattered(scores.clusters, -1),
        nearest=None if scores.nearest is None else scattered(scores.nearest, -1),
    )


def annotate(
    reference: Reference,
    engine: Engine,
    cells: Cells,
    options: AnnotateOptions,
    *,
    only: Bools | None = None,
    check: bool = True,
) -> Annotation:
    """Label every cell of a query; the query is not changed.

    Parameters
    ----------
    only
        True for the cells to label, shape (n,); the other cells count as empty. None for all cells.
    check
        As for :func:`fit_query`.

    Raises
    ------
    DataError
        When the cells cannot be read or share too few genes with the reference.
    ConfigError
        When an option does not fit the reference.
    """
    reference, engine = restrict(reference, engine, options)
    batches = batches_of(cells, options.batch_key, only)
    clusters = None if options.cluster_key is None else labels_of(cells, options.cluster_key)
    with showing(options.progress):
        query = read_query(engine, cells, options)
    query = query if only is None else query.only(only)
    with CellCache() as cache:
        cache_cells(query, cache, options.progress, threads=engine.chunk_threads)
        with progress_bar("Fitting to a sample", None, options.progress):
            model = fit_query(reference, engine, cache, query.report, options, batches.codes, check=check)
            model = model.with_clusters(query.n_obs) if options.majority_vote else model
        labels = CellLabels.allocate(query.n_obs, len(reference.labels.names))

        def label(chunk: tuple[Rows, AlignedCells]) -> tuple[Rows, CellLabels]:
            rows, aligned = chunk
            chosen: dict[str, Any] = {"certainty": options.certainty, "batch_size": options.batch_size}
            return rows, label_cells(reference, engine, model, aligned, rows, batches.codes[rows], **chosen)

        template = cache.template

        with progress_bar("Labelling", query.n_obs, options.progress) as bar:
            for rows, labelled in in_order(label, cache.chunks(), engine.chunk_threads):
                labels.fill(rows, labelled)
                bar.update(len(rows))
    key = INFERRED if model.inferred else batches.key
    annotation = annotation_of(reference, model, labels, cells.obs_names, options, batch_key=key)
    fitted = FittedQuery(reference, engine, model, template)
    annotation = replace(annotation, excluded_labels=excluded_labels(reference, engine), query=fitted)
    clusters = own_clusters(annotation) if options.majority_vote else clusters
    return annotation if clusters is None else replace(annotation, cluster_labels=majority(annotation, *clusters))


def read_query(engine: Engine, cells: Cells, options: AnnotateOptions) -> QueryCells:
    """Open a query for reading in chunks, with the layer, scaling, gene column and species of the options."""
    return engine.embedding.read(
        cells, layer=options.layer, scaling=options.scaling, gene_key=options.gene_key, species=options.species
    )


def annotation_of(
    reference: Reference,
    model: QueryModel,
    labels: CellLabels,
    obs_names: Any,
    options: AnnotateOptions,
    *,
    batch_key: str | None,
) -> Annotation:
    """Return the annotation of n cells of a query, with its provenance.

    Parameters
    ----------
    obs_names
        Names of the cells, shape (n,).
    batch_key
        Names of the columns with the batches; "inferred" if the batches were inferred from the cells; None for one
        batch.
    """
    assert model.rule is not None  # fit_query sets the rule
    arrays = {name: getattr(labels, name) for name in CellLabels.__dataclass_fields__}
    if reference.familiarity is None or reference.thresholds.single is None:
        arrays["typicality"] = None
    if model.rule.ood is None:
        arrays["ood_score"] = None
    if model.scores.clusters is None:
        arrays["clusters"] = None
    broad = BroadLabels.from_labels(reference.labels)
    return Annotation(
        obs_names=obs_names,
        **arrays,
        confidence=labels.probabilities.max(axis=1),
        label_names=reference.labels.names,
        label_ids=reference.labels.cell_ontology_ids,
        broad_names=broad.names,
        broad_ids=broad.term_ids,
        certainty=options.certainty,
        rule=model.rule,
        compatibility=model.compatibility,
        smoothed=model.smoothed,
        reference_name=reference.name,
        reference_origin=reference.origin,
        reference_digest=reference.digest,
        input_report=model.report,
        batch_key=batch_key,
        key_added=options.key_added,
        reporter=ReportWriter(options),
    )


def cache_cells(query: QueryCells, cache: CellCache, progress: bool | None, *, threads: int = 1) -> None:
    """Read all cells of a query into a cache; ``threads`` chunks of cells are prepared at the same time."""
    with progress_bar("Reading", query.n_obs, progress) as bar:
        for chunk in query.rows(range(query.n_obs), threads):
            cache.append(chunk)
            bar.update(len(chunk.totals))

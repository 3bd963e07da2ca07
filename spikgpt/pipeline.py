"""The way from cells to labels, the same for every engine, in two passes.

1. *Fit*: a :class:`spikgpt.engines.query_model.QueryModel` is learned from a sample of at most 20,000 cells, which does
   not depend on their order: the scale to see the query in, the space in which its neighbours are sought, the sample
   itself as neighbours, the effect of each batch, and the cut-offs beyond which a cell is Unknown.
2. *Label*: each chunk of cells by itself, given that model. So the result depends on neither chunks nor order, and
   memory stays flat. A model can be saved and sent to other processes, which then label chunks of their own.

Each cell goes through the network once. For the sample, that is the pass in the scale that was chosen; to choose it
takes one pass more over the sample, and two over at most half of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.cell_cache import CellCache
from spikgpt.cells.expression import Cells
from spikgpt.cells.obs import batches_of
from spikgpt.embedding.base import Engine, QueryCells
from spikgpt.engines.query_model import QueryModel
from spikgpt.options import AnnotateOptions
from spikgpt.reference.files import Reference
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.ontology import BroadLabels
from spikgpt.types import Bools, InputReport, Integers, Rows

# Stands for the name of a column where batches were inferred from the cells.
INFERRED = "inferred"


@dataclass(frozen=True)
class CellLabels:
    """What n cells are called; an empty cell is Unknown, with probabilities of 0.

    ``probabilities``, shape (n, L), are calibrated; ``best`` is the index of the largest, ``broad`` an index of the
    broad names; ``rejected`` says which cells are Unknown, ``familiarity`` which share of held-out cells is less
    familiar, ``ood_score`` how far a cell lies beyond its cut-off; each of shape (n,).
    """

    probabilities: npt.NDArray[np.float32]
    best: npt.NDArray[np.int16]
    broad: npt.NDArray[np.int16]
    rejected: Bools
    familiarity: npt.NDArray[np.float32] | None
    ood_score: npt.NDArray[np.float32] | None
    empty: Bools

    @classmethod
    def allocate(cls, cells: int, labels: int) -> CellLabels:
        """Return what cells are called before any is: in one piece, as joining chunks takes twice the memory."""
        whole = [np.zeros(cells, dtype=dtype) for dtype in (np.int16, np.int16, bool, np.float32, np.float32, bool)]
        return cls(np.zeros((cells, labels), dtype=np.float32), *whole)

    def take(self, rows: Rows, chunk: CellLabels) -> None:
        """Write down what a chunk of cells is called."""
        for name in self.__dataclass_fields__:
            if (values := getattr(chunk, name)) is not None:
                getattr(self, name)[rows] = values


def fit_query(
    reference: Reference,
    engine: Engine,
    spool: CellCache,
    report: InputReport,
    options: AnnotateOptions,
    batches: Integers,
) -> QueryModel:
    """Return the model of a query that was put aside: the first of the two passes.

    Parameters
    ----------
    batches
        Index of the batch of each cell of the query, shape (n,).
    """
    sample, rows = spool.sample()
    of_sample = batches[rows]
    model = QueryModel.fit(
        engine, reference.familiarity, sample, rows, batches=of_sample, report=report, options=options
    )
    return model.with_cutoffs(reference.thresholds, reference.labels.names, options)


def label_cells(
    reference: Reference,
    engine: Engine,
    model: QueryModel,
    cells: AlignedCells,
    rows: Rows,
    batches: Integers,
    *,
    batch_size: int | None = None,
) -> CellLabels:
    """Label a chunk of cells, given the model of their query: the second of the two passes.

    Parameters
    ----------
    cells
        n cells, as the reference's embedding reads them.
    rows
        Their row numbers in the query, shape (n,).
    batches
        Index of the batch of each, shape (n,).
    """
    assert model.cutoffs is not None  # fit_query gives them
    filled = np.flatnonzero(~cells.empty)
    of_filled = batches[filled]
    scores = model.score(engine, cells.part(filled), rows[filled], batches=of_filled, batch_size=batch_size)
    known = model.calibrated(reference.thresholds, scores.probabilities)
    probabilities = np.zeros((len(rows), known.shape[1]), dtype=np.float32)
    probabilities[filled] = known
    scores, rejected = replace(scores, probabilities=known), np.ones(len(rows), dtype=bool)
    rejected[filled] = model.cutoffs.is_unknown(scores)
    familiarity = ood_score = None
    if (ood := model.cutoffs.ood_scores(scores)) is not None:
        ood_score = np.full(len(rows), np.nan, dtype=np.float32)
        ood_score[filled] = ood
    calibration = reference.thresholds.calibration(model.smoothed)
    if calibration is not None and scores.familiarity is not None:
        familiarity = np.zeros(len(rows), dtype=np.float32)
        familiarity[filled] = calibration.everything.p_value(scores.familiarity)
    broad = BroadLabels.of(reference.labels).assign(probabilities)
    best = probabilities.argmax(axis=1).astype(np.int16)
    return CellLabels(probabilities, best, broad, rejected, familiarity, ood_score, cells.empty)


def annotate(reference: Reference, engine: Engine, cells: Cells, options: AnnotateOptions) -> Annotation:
    """Label every cell of a query, which is left as it is.

    Raises
    ------
    DataError
        When the cells cannot be read or share too few genes with the reference.
    ConfigError
        When an option does not go with the reference.
    """
    batches = batches_of(cells, options.batch_key)
    query = engine.embedding.read(cells, layer=options.layer, scaling=options.scaling)
    with CellCache() as spool:
        cache_cells(query, spool, options.progress)
        with progress_bar("Learning from a sample", None, options.progress):
            model = fit_query(reference, engine, spool, query.report, options, batches.codes)
        labels = CellLabels.allocate(query.n_obs, len(reference.labels.names))
        with progress_bar("Labelling", query.n_obs, options.progress) as bar:
            for rows, chunk in spool.chunks():
                codes = batches.codes[rows]
                some = label_cells(reference, engine, model, chunk, rows, codes, batch_size=options.batch_size)
                labels.take(rows, some)
                bar.update(len(rows))
    assert model.cutoffs is not None  # fit_query gives them
    told = {name: getattr(labels, name) for name in CellLabels.__dataclass_fields__}
    if reference.familiarity is None or reference.thresholds.single is None:
        told["familiarity"] = None
    if model.cutoffs.ood is None:
        told["ood_score"] = None
    return Annotation(
        obs_names=cells.obs_names,
        **told,
        confidence=labels.probabilities.max(axis=1),
        label_names=reference.labels.names,
        broad_names=BroadLabels.of(reference.labels).names,
        cutoffs=model.cutoffs,
        verdict=model.verdict,
        smoothed=model.smoothed,
        reference_name=reference.name,
        reference_origin=reference.origin,
        reference_digest=reference.digest,
        report=model.report,
        batch_key=INFERRED if model.inferred else batches.key,
        key_added=options.key_added,
    )


def cache_cells(query: QueryCells, spool: CellCache, progress: bool | None) -> None:
    """Read a query to the end."""
    with progress_bar("Reading", query.n_obs, progress) as bar:
        for chunk in query.chunks:
            spool.add(chunk)
            bar.update(len(chunk.totals))


def progress_bar(what: str, cells: int | None, progress: bool | None) -> Any:
    """Return a progress bar on standard error; with ``progress`` None it shows where there is a terminal."""
    return tqdm(desc=what, total=cells, unit=" cells", disable=None if progress is None else not progress)

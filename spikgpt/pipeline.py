"""The way from cells to labels, the same for every engine, in two passes.

1. *Fit*: a :class:`QueryModel` is learned from a sample of at most 20,000 cells, which does not depend on their order:
   the scale to see the query in, the space in which its neighbours are sought, the sample itself as neighbours, what
   sets the study apart, and the cut-offs below which a cell is Unknown.
2. *Label*: each chunk of cells by itself, given that model. So the result depends on neither chunks nor order, and
   memory stays flat. A model can be saved and sent to other processes, which then label chunks of their own.

Each cell goes through the network once. For the sample, that is the pass in the scale that was chosen; to choose it
takes one pass more over the sample, and two over at most half of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from scipy import sparse
from tqdm import tqdm

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.expression import Cells
from spikgpt.cells.obs import batches_of
from spikgpt.cells.spool import Spool
from spikgpt.embedding.base import Engine, QueryCells
from spikgpt.embedding.own_space import OwnSpace
from spikgpt.labels.annotation import Annotation
from spikgpt.labels.decision import CellScores, Cutoffs, farther_share, fit_cutoffs
from spikgpt.labels.familiarity import Familiarity, FamiliarityScorer, within_of
from spikgpt.labels.neighbours import ENOUGH_CELLS, Neighbourhood
from spikgpt.labels.ontology import BroadLabels
from spikgpt.labels.ood import OODRule, label_contrasts
from spikgpt.labels.places import Places
from spikgpt.labels.thresholds import Thresholds, tempered
from spikgpt.labels.typicality import Typicality
from spikgpt.labels.verdict import Verdict, contrast, judge, shift
from spikgpt.options import AnnotateOptions
from spikgpt.reference.files import ReferenceFiles
from spikgpt.types import Bools, Floats, InputReport, Integers, NetworkOutput, Profiles, Rows, Scale

# The arrays of a sparse matrix.
CSR = ("data", "indices", "indptr")


@dataclass(frozen=True)
class QueryModel:
    """What is learned of a query from a sample of its cells: enough to score any of them, alone and in any order.

    Attributes
    ----------
    scale
        Gene means and deviations to see the cells in; None where the embedding has no scale.
    space
        Where neighbours are sought; None where that is the network's own vectors.
    among
        The sample: row numbers, points and probabilities.
    places
        Where labels lie among the cells; None where these are seen alone.
    scorer
        What scores familiarity; None for a reference without it.
    typicality
        What scores how typical of their label cells are; None as well without familiarity.
    contrasts
        Whether each label keeps what sets it apart, in each batch, shape (B, L); None without familiarity.
    scores
        Those of the sample itself, worked out once.
    smoothed
        Whether cells are seen with their neighbours: not if the user declined, nor among fewer than 100 cells.
    report
        How the query was read.
    correlation, agreement
        What :func:`spikgpt.labels.verdict.judge` goes by, where it is known.
    cutoffs, verdict
        When a cell is Unknown, and whether the reference suits the query, once thresholds have been given.
    """

    scale: Scale | None
    space: OwnSpace | None
    among: Neighbourhood
    places: Places | None
    scorer: FamiliarityScorer | None
    typicality: Typicality | None
    contrasts: npt.NDArray[np.float64] | None
    scores: CellScores
    smoothed: bool
    report: InputReport
    correlation: float | None = None
    agreement: float | None = None
    cutoffs: Cutoffs | None = None
    verdict: Verdict | None = None

    @classmethod
    def fit(
        cls,
        engine: Engine,
        familiarity: Familiarity | None,
        sample: AlignedCells,
        rows: Rows,
        *,
        batches: Integers | None = None,
        report: InputReport,
        options: AnnotateOptions,
    ) -> QueryModel:
        """Learn from a sample of a query's cells.

        Parameters
        ----------
        sample
            The cells, k of them, none of them empty.
        rows
            Their row numbers in the query, shape (k,), ascending.
        batches
            Index of the batch of each, shape (k,); by default all are of one batch.
        report
            How they were read.
        """
        embedding = engine.embedding

        def run(cells: AlignedCells, scale: Scale | None) -> NetworkOutput:
            return engine.run(cells, scale, batch_size=options.batch_size)

        scaled = embedding.fit_scale(sample, options.scaling, run)
        output = scaled.output or run(sample, scaled.scale)
        smoothed = options.neighbours and len(rows) >= ENOUGH_CELLS
        logs = embedding.logs(sample)
        space = OwnSpace.fit(logs) if smoothed and logs is not None else None
        points, profiles = _places(space, output, logs), embedding.profiles(sample)
        among = Neighbourhood.of(rows, points, output.probabilities, smoothed=smoothed)
        smooth = among.smooth(output.probabilities, points, among.near)
        places = Places.fit(points, smooth) if smoothed else None
        batches = np.zeros(len(rows), dtype=np.int64) if batches is None else batches
        scores = CellScores(places.weigh(smooth, points) if places else smooth, batches)
        best = scores.probabilities.argmax(axis=1)
        scorer = typicality = contrasts = None
        if familiarity is not None:
            scorer = familiarity.scorer(among, output, logs, profiles, batches)
            evidence = scorer.score(output, logs, among.near, batches)
            typicality = Typicality.fit(evidence, best, batches, among.near)
            typical = typicality.of(evidence, batches, among.near)
            scores = replace(scores, familiarity=evidence.familiarity, typicality=typical)
            contrasts = (
                label_contrasts(output.vectors, best, batches, familiarity.profiles)
                if logs is None or profiles is None
                else label_contrasts(logs, best, batches, profiles)
            )
        report = replace(report, scaling=scaled.name, notes=report.notes + scaled.notes)
        correlation = None
        if logs is not None and profiles is not None:
            correlation = contrast(logs, best, profiles)
        model = cls(scaled.scale, space, among, places, scorer, typicality, contrasts, scores, smoothed, report)
        return replace(model, correlation=correlation, agreement=scaled.agreement)

    def score(
        self,
        engine: Engine,
        cells: AlignedCells,
        rows: Rows,
        *,
        batches: Integers | None = None,
        batch_size: int | None = None,
    ) -> CellScores:
        """Return the scores of cells, n of them, none of them empty.

        Parameters
        ----------
        rows
            Their row numbers in the query, shape (n,): those of the sample are not worked out again.
        batches
            As for :meth:`fit`.
        """
        batches = np.zeros(len(rows), dtype=np.int64) if batches is None else batches
        place = np.minimum(np.searchsorted(self.among.rows, rows), max(len(self.among.rows) - 1, 0))
        seen = self.among.rows[place] == rows if len(self.among.rows) else np.zeros(len(rows), dtype=bool)
        if seen.all():
            return self.scores.part(place)
        new = np.flatnonzero(~seen)
        cells = cells.part(new)
        output = engine.run(cells, self.scale, batch_size=batch_size)
        found = self._scored(output, engine.embedding.logs(cells), rows[new], batches[new])
        known = vars(self.scores.part(place[seen]))
        order = np.argsort(np.concatenate([new, np.flatnonzero(seen)]), kind="stable")
        pairs = {name: (values, known[name]) for name, values in vars(found).items() if values is not None}
        return CellScores(**{name: np.concatenate(pair)[order] for name, pair in pairs.items()})

    def with_cutoffs(self, thresholds: Thresholds, names: tuple[str, ...], options: AnnotateOptions) -> QueryModel:
        """Return the model with what makes a cell Unknown, as the options ask for.

        Raises
        ------
        ConfigError
            When familiarity is asked for and the reference has none.
        """
        probabilities = self.calibrated(thresholds, self.scores.probabilities)
        scores, sample = self.scores.familiarity, replace(self.scores, probabilities=probabilities)
        cutoffs = fit_cutoffs(thresholds, options, names, sample, self.contrasts, smoothed=self.smoothed)
        calibration = thresholds.calibration(self.smoothed)
        if calibration is None or scores is None or not len(scores):
            return replace(self, cutoffs=cutoffs)
        best = probabilities.argmax(axis=1)
        shifted = shift(scores, best, calibration.everything)
        farther = farther_share(calibration, names, best, scores, thresholds.unknown_rate)
        verdict = judge(self.correlation, self.agreement, shifted, farther, thresholds.unknown_rate)
        return replace(self, cutoffs=cutoffs if verdict.usable else cutoffs.of_no_label(), verdict=verdict)

    def calibrated(self, thresholds: Thresholds, probabilities: Floats) -> npt.NDArray[np.float32]:
        """Return probabilities at the temperature of cells seen with neighbours; alone, the network has done it."""
        calibration = thresholds.smoothed if self.smoothed else None
        return tempered(probabilities, calibration.temperature if calibration else 1.0).astype(np.float32)

    def save(self) -> bytes:
        """Return the model as a safetensors file, for another process that has the same reference."""
        cutoffs = self.cutoffs and replace(self.cutoffs, limits=None, ood=None)
        told = {name: getattr(self, name) for name in ("smoothed", "correlation", "agreement")}
        told |= {"report": asdict(self.report), "cutoffs": cutoffs and asdict(cutoffs), "verdict": self.verdict}
        parts: dict[str, Any] = {
            name: getattr(self, name) for name in ("among", "space", "places", "scores", "typicality")
        }
        arrays: dict[str, Any] = {"limits": self.cutoffs and self.cutoffs.limits, "contrasts": self.contrasts}
        parts["ood"] = self.cutoffs and self.cutoffs.ood
        arrays["mean"], arrays["std"] = self.scale or (None, None)
        if self.scorer is not None:
            arrays |= {"effects": self.scorer.effects, "batches": self.scorer.batches}
            parts |= {"sample": self.scorer.sample, "profiles": self.scorer.profiles}
            if self.scorer.logs is not None:
                arrays |= {f"logs.{name}": getattr(self.scorer.logs, name) for name in CSR}
        for name, part in parts.items():
            arrays |= {f"{name}.{field.name}": getattr(part, field.name) for field in (part and fields(part)) or ()}
        kept = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
        return save_tensors(kept, metadata={"query_model": msgspec.json.encode(told).decode()})

    @classmethod
    def load(cls, content: bytes, familiarity: Familiarity | None) -> QueryModel:
        """Return a model that :meth:`save` wrote, with the familiarity of the same reference."""
        arrays = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        metadata = msgspec.json.decode(content[8 : 8 + size])["__metadata__"]["query_model"]
        told = msgspec.json.decode(metadata, type=_Told)

        def part(name: str) -> dict[str, Any]:
            return {key.removeprefix(f"{name}."): arrays[key] for key in arrays if key.startswith(f"{name}.")}

        scorer = typicality = None
        if familiarity is not None and (sample := part("sample")):
            profiles = Profiles(**part("profiles")) if part("profiles") else None
            logs = None
            if profiles is not None:
                shape = len(sample["energies"]), profiles.means.shape[1]
                logs = sparse.csr_matrix(tuple(part("logs")[name] for name in CSR), shape)
            output, batches = NetworkOutput(**sample), arrays["batches"]
            scorer = FamiliarityScorer(familiarity, output, batches, logs, profiles, arrays.get("effects"))
            typicality = Typicality(**part("typicality"))
        cutoffs = None
        if told.cutoffs:
            ood = OODRule(**part("ood")) if part("ood") else None
            cutoffs = Cutoffs(**told.cutoffs | {"limits": arrays.get("limits"), "ood": ood})
        return cls(
            scale=(arrays["mean"], arrays["std"]) if "mean" in arrays else None,
            space=OwnSpace(**part("space")) if part("space") else None,
            among=Neighbourhood(**part("among")),
            places=Places(**part("places")) if part("places") else None,
            scorer=scorer,
            typicality=typicality,
            contrasts=arrays.get("contrasts"),
            scores=CellScores(**part("scores")),
            smoothed=told.smoothed,
            report=told.report,
            correlation=told.correlation,
            agreement=told.agreement,
            verdict=told.verdict,
            cutoffs=cutoffs,
        )

    def _scored(
        self, output: NetworkOutput, logs: sparse.csr_matrix | None, rows: Rows, batches: Integers
    ) -> CellScores:
        """Return the scores of cells from what the network says of each alone."""
        points = _places(self.space, output, logs)
        near = self.among.nearest(points, rows) if self.smoothed else np.empty((len(rows), 0), dtype=np.int64)
        smooth = self.among.smooth(output.probabilities, points, near)
        probabilities = self.places.weigh(smooth, points) if self.places else smooth
        if self.scorer is None or self.typicality is None:
            return CellScores(probabilities, batches)
        evidence = self.scorer.score(output, logs, near, batches)
        return CellScores(probabilities, batches, evidence.familiarity, self.typicality.of(evidence, batches, near))


def _places(space: OwnSpace | None, output: NetworkOutput, logs: sparse.csr_matrix | None) -> Floats:
    """Return where cells lie among themselves, shape (n, D)."""
    return output.vectors if space is None or logs is None else space.place(logs)


class _Told(msgspec.Struct):
    """What a saved model keeps beside its arrays."""

    smoothed: bool
    report: InputReport
    correlation: float | None
    agreement: float | None
    cutoffs: dict[str, Any] | None
    verdict: Verdict | None


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
    def room_for(cls, cells: int, labels: int) -> CellLabels:
        """Return what cells are called before any is: in one piece, as joining chunks takes twice the memory."""
        whole = [np.zeros(cells, dtype=dtype) for dtype in (np.int16, np.int16, bool, np.float32, np.float32, bool)]
        return cls(np.zeros((cells, labels), dtype=np.float32), *whole)

    def take(self, rows: Rows, chunk: CellLabels) -> None:
        """Write down what a chunk of cells is called."""
        for name in self.__dataclass_fields__:
            if (values := getattr(chunk, name)) is not None:
                getattr(self, name)[rows] = values


def fit_query(
    reference: ReferenceFiles,
    engine: Engine,
    spool: Spool,
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
    reference: ReferenceFiles,
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
    rejected[filled] = model.cutoffs.rejects(scores)
    familiarity = ood_score = None
    if (ood := model.cutoffs.ood_scores(scores)) is not None:
        ood_score = np.full(len(rows), np.nan, dtype=np.float32)
        ood_score[filled] = ood
    calibration = reference.thresholds.calibration(model.smoothed)
    if calibration is not None and scores.familiarity is not None:
        familiarity = np.zeros(len(rows), dtype=np.float32)
        familiarity[filled] = calibration.everything.share_below(scores.familiarity)
    broad = BroadLabels.of(reference.labels).assign(probabilities)
    best = probabilities.argmax(axis=1).astype(np.int16)
    return CellLabels(probabilities, best, broad, rejected, familiarity, ood_score, cells.empty)


def annotate(reference: ReferenceFiles, engine: Engine, cells: Cells, options: AnnotateOptions) -> Annotation:
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
    with Spool() as spool:
        put_aside(query, spool, options.progress)
        with progress_bar("Learning from a sample", None, options.progress):
            model = fit_query(reference, engine, spool, query.report, options, batches.codes)
        labels = CellLabels.room_for(query.n_obs, len(reference.labels.names))
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
        batch_key=batches.key,
        key_added=options.key_added,
    )


def put_aside(query: QueryCells, spool: Spool, progress: bool | None) -> None:
    """Read a query to the end."""
    with progress_bar("Reading", query.n_obs, progress) as bar:
        for chunk in query.chunks:
            spool.add(chunk)
            bar.update(len(chunk.totals))


def progress_bar(what: str, cells: int | None, progress: bool | None) -> Any:
    """Return a progress bar on standard error; with ``progress`` None it shows where there is a terminal."""
    return tqdm(desc=what, total=cells, unit=" cells", disable=None if progress is None else not progress)

"""What is learned of a query from a sample of its cells: enough to score any of them, alone and in any order."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.base import Engine
from spikgpt.embedding.batches import infer_batches
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.options import AnnotateOptions
from spikgpt.scoring.compatibility import Comparison, Compatibility, check_compatibility, shift
from spikgpt.scoring.contrasts import label_support, mean_contrast
from spikgpt.scoring.ood_rule import OODRule, Typicality
from spikgpt.scoring.ood_scorer import LabelGeometry, OODScorer
from spikgpt.scoring.query_lda import QueryLDA
from spikgpt.scoring.rejection import CellScores, RejectionRule, expected_false_rejection, fit_cutoffs
from spikgpt.scoring.smoothing import ENOUGH_CELLS, KNNSmoother
from spikgpt.scoring.thresholds import Thresholds, tempered
from spikgpt.types import Floats, InputReport, Integers, NetworkOutput, Profiles, Rows, Scale

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
    contrasts, support
        The contrast C of each label in each batch, and C + 1.5 M, each of shape (B, L): see
        :mod:`spikgpt.scoring.contrasts`. None without familiarity.
    scores
        Those of the sample itself, worked out once.
    smoothed
        Whether cells are seen with their neighbours: not if the user declined, nor among fewer than 100 cells.
    inferred
        Whether the batches were inferred from the cells.
    report
        How the query was read.
    comparison
        How the labels compare with the reference's; None without expression.
    cutoffs, verdict
        When a cell is Unknown, and whether the reference suits the query, once thresholds have been given.
    """

    scale: Scale | None
    space: QueryPCA | None
    among: KNNSmoother
    places: QueryLDA | None
    scorer: OODScorer | None
    typicality: Typicality | None
    contrasts: npt.NDArray[np.float64] | None
    support: npt.NDArray[np.float64] | None
    scores: CellScores
    smoothed: bool
    inferred: bool
    report: InputReport
    comparison: Comparison | None = None
    cutoffs: RejectionRule | None = None
    verdict: Compatibility | None = None

    @classmethod
    def fit(
        cls,
        engine: Engine,
        familiarity: LabelGeometry | None,
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
            Index of the batch of each, shape (k,); by default all are of one batch. With the option ``batch_key`` of
            "auto", the batches are inferred from the cells if all are of one batch.
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
        space = QueryPCA.fit(logs) if smoothed and logs is not None else None
        points, profiles = _places(space, output, logs), embedding.profiles(sample)
        among = KNNSmoother.of(rows, points, output.probabilities, smoothed=smoothed)
        smooth = among.smooth(output.probabilities, points, among.near)
        places = QueryLDA.fit(points, smooth) if smoothed else None
        batches = np.zeros(len(rows), dtype=np.int64) if batches is None else batches
        probabilities = places.weigh(smooth, points) if places else smooth
        best, known = probabilities.argmax(axis=1), batches.any() or options.batch_key != "auto" or familiarity is None
        if not known and space is not None and profiles is not None:
            batches = infer_batches(points, best, among.near, space.place(sparse.csr_matrix(profiles.means)))
            report = replace(report, notes=report.notes + _batches_note(batches))
        scores = CellScores(probabilities, batches)
        scorer = typicality = contrasts = support = None
        if familiarity is not None:
            scorer = familiarity.scorer(among, output, logs, profiles, batches)
            evidence = scorer.score(output, logs, among.near, batches)
            typicality = Typicality.fit(evidence, best, batches, among.near)
            typical = typicality.of(evidence, batches, among.near)
            scores = replace(scores, familiarity=evidence.familiarity, typicality=typical)
            by_vectors = output.vectors, best, batches, familiarity.profiles
            by_genes = None if logs is None or profiles is None else (logs, best, batches, profiles)
            contrasts, support = label_support(*(by_genes or by_vectors))
        report = scaled.reported(report)
        comparison = None if logs is None or profiles is None else Comparison.of(logs, best, profiles)
        learned = scaled.scale, space, among, places, scorer, typicality, contrasts, support, scores
        return cls(*learned, smoothed, bool(not known and batches.any()), report, comparison)

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
            As for :meth:`fit`. Where they were inferred, a cell is of the batch of most of its neighbours.
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
        few_genes = self.report.few_genes
        cutoffs = fit_cutoffs(
            thresholds, options, names, sample, self.support, smoothed=self.smoothed, few_genes=few_genes
        )
        calibration = thresholds.calibration(self.smoothed)
        if calibration is None or scores is None or not len(scores):
            return replace(self, cutoffs=cutoffs)
        best = probabilities.argmax(axis=1)
        shifted = shift(scores, best, calibration.everything)
        farther = expected_false_rejection(calibration, names, best, scores, thresholds.unknown_rate)
        kept = None
        if self.contrasts is not None and self.scorer is not None and self.scorer.profiles is not None:
            kept = mean_contrast(self.contrasts, best, self.scores.batches)
        verdict = check_compatibility(self.comparison, kept, shifted, farther, thresholds.unknown_rate)
        return replace(self, cutoffs=cutoffs if verdict.usable else cutoffs.reject_all(), verdict=verdict)

    def calibrated(self, thresholds: Thresholds, probabilities: Floats) -> npt.NDArray[np.float32]:
        """Return probabilities at the temperature of cells seen with neighbours; alone, the network has done it."""
        calibration = thresholds.smoothed if self.smoothed else None
        return tempered(probabilities, calibration.temperature if calibration else 1.0).astype(np.float32)

    def save(self) -> bytes:
        """Return the model as a safetensors file, for another process that has the same reference."""
        cutoffs = self.cutoffs and replace(self.cutoffs, limits=None, ood=None)
        told = {name: getattr(self, name) for name in ("smoothed", "inferred", "comparison")}
        told |= {"report": asdict(self.report), "cutoffs": cutoffs and asdict(cutoffs), "verdict": self.verdict}
        parts: dict[str, Any] = {
            name: getattr(self, name) for name in ("among", "space", "places", "scores", "typicality")
        }
        arrays: dict[str, Any] = {"limits": self.cutoffs and self.cutoffs.limits}
        arrays |= {"contrasts": self.contrasts, "support": self.support}
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
    def load(cls, content: bytes, familiarity: LabelGeometry | None) -> QueryModel:
        """Return a model that :meth:`save` wrote, with the familiarity of the same reference."""
        arrays = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        metadata = msgspec.json.decode(content[8 : 8 + size])["__metadata__"]["query_model"]
        told = msgspec.json.decode(metadata, type=_ModelMetadata)

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
            scorer = OODScorer(familiarity, output, batches, logs, profiles, arrays.get("effects"))
            typicality = Typicality(**part("typicality"))
        cutoffs = None
        if told.cutoffs:
            ood = OODRule(**part("ood")) if part("ood") else None
            cutoffs = RejectionRule(**told.cutoffs | {"limits": arrays.get("limits"), "ood": ood})
        return cls(
            scale=(arrays["mean"], arrays["std"]) if "mean" in arrays else None,
            space=QueryPCA(**part("space")) if part("space") else None,
            among=KNNSmoother(**part("among")),
            places=QueryLDA(**part("places")) if part("places") else None,
            scorer=scorer,
            typicality=typicality,
            contrasts=arrays.get("contrasts"),
            support=arrays.get("support"),
            scores=CellScores(**part("scores")),
            smoothed=told.smoothed,
            inferred=told.inferred,
            report=told.report,
            comparison=told.comparison,
            verdict=told.verdict,
            cutoffs=cutoffs,
        )

    def _scored(
        self, output: NetworkOutput, logs: sparse.csr_matrix | None, rows: Rows, batches: Integers
    ) -> CellScores:
        """Return the scores of cells from what the network says of each alone."""
        points = _places(self.space, output, logs)
        near = self.among.nearest(points, rows) if self.smoothed else np.empty((len(rows), 0), dtype=np.int64)
        if self.inferred:
            of_near = self.scores.batches[near]  # (n, neighbours)
            batches = np.stack([(of_near == batch).sum(axis=1) for batch in range(of_near.max() + 1)]).argmax(axis=0)
        smooth = self.among.smooth(output.probabilities, points, near)
        probabilities = self.places.weigh(smooth, points) if self.places else smooth
        if self.scorer is None or self.typicality is None:
            return CellScores(probabilities, batches)
        evidence = self.scorer.score(output, logs, near, batches)
        return CellScores(probabilities, batches, evidence.familiarity, self.typicality.of(evidence, batches, near))


def _batches_note(batches: Integers) -> tuple[str, ...]:
    """Return a note on batches that were inferred from a sample of cells, if there are several."""
    if not batches.any():
        return ()
    sizes = ", ".join(str(cells) for cells in sorted(np.bincount(batches), reverse=True))
    inferred = f"{batches.max() + 1} batches were inferred ({sizes} of {len(batches)} sampled cells)"
    note = (
        f"No column of obs names batches; {inferred}, and Unknown is decided within each. To name a column: "
        "batch_key='COLUMN' (--batch-key COLUMN). To take all cells as one batch: batch_key=None (--no-batch)."
    )
    return (note,)


def _places(space: QueryPCA | None, output: NetworkOutput, logs: sparse.csr_matrix | None) -> Floats:
    """Return where cells lie among themselves, shape (n, D)."""
    return output.vectors if space is None or logs is None else space.place(logs)


class _ModelMetadata(msgspec.Struct):
    """What a saved model keeps beside its arrays."""

    smoothed: bool
    inferred: bool
    report: InputReport
    comparison: Comparison | None
    cutoffs: dict[str, Any] | None
    verdict: Compatibility | None

"""Model of a query, fitted to a sample of its cells. The model scores each cell of the query alone, in any order."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.constants import CONSTANTS
from spikgpt.embedding.base import Engine
from spikgpt.embedding.batches import infer_batches
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.engines.packed_arrays import Layout, joined_rows, pack, split_rows, unpack
from spikgpt.errors import DataError
from spikgpt.options import AnnotateOptions
from spikgpt.scoring.cell_agreement import CellAgreement
from spikgpt.scoring.compatibility import Comparison, Compatibility, check_compatibility, score_loss
from spikgpt.scoring.label_match import LabelMatch, LabelMeans, marker_genes
from spikgpt.scoring.ood_rule import OODRule, ScoreAverager
from spikgpt.scoring.ood_scorer import LabelGeometry, OODScorer
from spikgpt.scoring.overclustering import most_frequent, over_cluster
from spikgpt.scoring.query_lda import QueryLDA
from spikgpt.scoring.rejection import CellScores, RejectionRule, expected_false_rejection, fit_rejection
from spikgpt.scoring.smoothing import KNNSmoother
from spikgpt.scoring.thresholds import Thresholds, tempered
from spikgpt.types import Floats, InputReport, Integers, NetworkOutput, Profiles, Rows, Scale

# Number of sample cells that determine the position of a cell on a map.
NEAREST = 3


@dataclass(frozen=True)
class QueryModel:
    """Model of a query, fitted to a sample of k of its cells.

    Attributes
    ----------
    scale
        Mean and standard deviation of each gene, to scale the cells; None if the embedding has no scale.
    pca
        Principal components in which neighbours are searched; None if the network's vectors are used instead.
    smoother
        Row numbers, coordinates, probabilities and neighbours of the sample.
    lda
        Linear discriminant analysis of the query; None without smoothing.
    scorer, averager
        Objects that compute the scores for Unknown; None for a reference of format 1.
    match
        Agreement of the labels with the reference in each batch; None for a reference of format 1.
    scores
        Scores of the sample.
    smoothed
        True if probabilities are averaged over neighbours, which needs 100 cells.
    inferred
        True if batches were inferred from the cells.
    report
        Summary of the input: kind of values, number of shared genes, and scaling.
    comparison
        Comparison of the labels with those of the reference; None without expression.
    rule, compatibility
        Rule for Unknown, and compatibility with the reference; None until :meth:`with_rule` sets both.
    """

    scale: Scale | None
    pca: QueryPCA | None
    smoother: KNNSmoother
    lda: QueryLDA | None
    scorer: OODScorer | None
    averager: ScoreAverager | None
    match: LabelMatch | None
    scores: CellScores
    smoothed: bool
    inferred: bool
    report: InputReport
    comparison: Comparison | None = None
    rule: RejectionRule | None = None
    compatibility: Compatibility | None = None

    @classmethod
    def fit(
        cls,
        engine: Engine,
        geometry: LabelGeometry | None,
        sample: AlignedCells,
        rows: Rows,
        *,
        batches: Integers | None = None,
        report: InputReport,
        options: AnnotateOptions,
    ) -> QueryModel:
        """Fit the model to a sample of a query's cells.

        Parameters
        ----------
        geometry
            Position and spread of the reference's labels; None for a reference of format 1.
        sample
            The k cells of the sample, none of them empty.
        rows
            Row numbers of the cells in the query, shape (k,), ascending.
        batches
            Index of the batch of each cell, shape (k,); None for one batch. With ``batch_key`` "auto" and one batch,
            the batches are inferred from the cells.
        report
            Summary of the values and genes of the query.
        """
        embedding = engine.embedding

        def run(cells: AlignedCells, scale: Scale | None) -> NetworkOutput:
            return engine.run(cells, scale, batch_size=options.batch_size)

        scaled = embedding.fit_scale(sample, options.scaling, run)
        output = scaled.output or run(sample, scaled.scale)
        smoothed = options.smoothing and len(rows) >= CONSTANTS.smoothing.least_cells
        logs, profiles = embedding.logs(sample), embedding.profiles(sample)
        pca = QueryPCA.fit(logs) if smoothed and logs is not None else None
        points = _coordinates(pca, output, logs)
        smoother = KNNSmoother.fit(rows, points, output.probabilities, smoothed=smoothed)
        probabilities = smoother.smooth(output.probabilities, points, smoother.neighbours)
        lda = QueryLDA.fit(points, probabilities) if smoothed else None
        probabilities = lda.reweight(probabilities, points) if lda else probabilities
        best = probabilities.argmax(axis=1)
        batches = np.zeros(len(rows), dtype=np.int64) if batches is None else batches
        named = batches.any() or options.batch_key != "auto" or geometry is None
        if not named and pca is not None and profiles is not None:
            of_labels = pca.transform(sparse.csr_matrix(profiles.means))
            batches = infer_batches(points, best, smoother.neighbours, of_labels)
            report = replace(report, notes=report.notes + _batches_note(batches))
        unknown = _UnknownFit(None, None, None, None, CellScores(probabilities, batches))
        if geometry is not None:
            unknown = _fit_unknown(geometry, smoother, output, logs, profiles, unknown.scores)
        return cls(
            scale=scaled.scale,
            pca=pca,
            smoother=smoother,
            lda=lda,
            **unknown._asdict(),
            smoothed=smoothed,
            inferred=bool(not named and batches.any()),
            report=scaled.reported(report),
        )

    def score(
        self,
        engine: Engine,
        cells: AlignedCells,
        rows: Rows,
        *,
        batches: Integers | None = None,
        batch_size: int | None = None,
    ) -> CellScores:
        """Return the scores of n cells, none of them empty.

        Parameters
        ----------
        rows
            Row numbers of the cells in the query, shape (n,). Cells of the sample keep the scores from the fit.
        batches
            As for :meth:`fit`. If batches were inferred, a cell is in the batch of most of its neighbours.
        """
        batches = np.zeros(len(rows), dtype=np.int64) if batches is None else batches
        sample = self.smoother.rows
        position = np.minimum(np.searchsorted(sample, rows), max(len(sample) - 1, 0))
        in_sample = sample[position] == rows if len(sample) else np.zeros(len(rows), dtype=bool)
        own = np.repeat(position[in_sample].astype(np.int32)[:, None], NEAREST, axis=1)
        known = replace(self.scores.part(position[in_sample]), nearest=own)
        if in_sample.all():
            return known
        new = np.flatnonzero(~in_sample)
        cells = cells.part(new)
        output = engine.run(cells, self.scale, batch_size=batch_size)
        scored = self._scores(output, engine.embedding.logs(cells), rows[new], batches[new])
        order = np.argsort(np.concatenate([new, np.flatnonzero(in_sample)]), kind="stable")
        pairs = {name: (values, getattr(known, name)) for name, values in vars(scored).items() if values is not None}
        return CellScores(**{name: np.concatenate(pair)[order] for name, pair in pairs.items()})

    def with_clusters(self, n_cells: int) -> QueryModel:
        """Return the model with fine clusters of its sample, for a query of ``n_cells`` cells.

        Raises
        ------
        DataError
            When the sample has too few cells.
        """
        if not self.smoothed:
            least = CONSTANTS.smoothing.least_cells
            msg = (
                f"majority_vote needs at least {least} cells with counts; the query has {len(self.smoother.rows)}. "
                "Leave out majority_vote (--majority-vote)."
            )
            raise DataError(msg)
        clusters = over_cluster(self.smoother.neighbours, self.smoother.points, n_cells)
        return replace(self, scores=replace(self.scores, clusters=clusters))

    def with_rule(
        self, thresholds: Thresholds, names: tuple[str, ...], options: AnnotateOptions, *, check: bool = True
    ) -> QueryModel:
        """Return the model with the rule for Unknown that the options ask for, and with the compatibility.

        Parameters
        ----------
        check
            True to make all cells Unknown if the reference does not suit the query.

        Raises
        ------
        ConfigError
            When an option needs ID scores and the reference has none.
        """
        sample = replace(self.scores, probabilities=self.calibrated(thresholds, self.scores.probabilities))
        few_genes = self.report.few_genes
        known: dict[str, Any] = {"smoothed": self.smoothed, "few_genes": few_genes}
        allowed = self.scorer.geometry.allowed if self.scorer else None
        rule = fit_rejection(thresholds, options, names, sample, self.match, allowed=allowed, **known)
        calibration, id_scores = thresholds.calibration(self.smoothed), sample.id_score
        if calibration is None or id_scores is None or self.match is None or not len(id_scores):
            return replace(self, rule=rule)
        best, rate = sample.probabilities.argmax(axis=1), thresholds.unknown_rate
        comparison = self.comparison
        if few_genes and comparison is not None:
            # With few genes, many labels are wrong, so the cells of a label differ even with a suitable reference.
            comparison = replace(comparison, cells=None)
        compatibility = check_compatibility(
            comparison,
            None if self.comparison is None else self.match.mean_contrast,
            score_loss(id_scores, best, calibration.everything),
            expected_false_rejection(calibration, names, best, id_scores, rate),
            rate,
        )
        refused = check and not compatibility.usable
        return replace(self, rule=rule.reject_all() if refused else rule, compatibility=compatibility)

    def calibrated(self, thresholds: Thresholds, probabilities: Floats) -> npt.NDArray[np.float32]:
        """Return calibrated probabilities; without smoothing, the network has already applied its temperature."""
        calibration = thresholds.smoothed if self.smoothed else None
        return tempered(probabilities, calibration.temperature if calibration else 1.0).astype(np.float32)

    def save(self) -> bytes:
        """Return the model as a safetensors file of packed arrays, for another process with the same reference.

        Coordinates, probabilities after smoothing, and averages of scores are left out. :meth:`load` computes these
        three again.
        """
        rule = asdict(replace(self.rule, limits=None, ood=None)) if self.rule else None
        arrays: dict[str, Any] = {"limits": self.rule and self.rule.limits}
        arrays["mean"], arrays["std"] = self.scale or (None, None)
        parts = {name: getattr(self, name) for name in ("pca", "smoother", "lda", "averager", "match", "scores")}
        parts["ood"] = self.rule and self.rule.ood
        for name, part in parts.items():
            arrays |= {f"{name}.{field.name}": getattr(part, field.name) for field in (part and fields(part)) or ()}
        if self.scorer is not None:
            arrays |= {"effects": self.scorer.effects, "batches": self.scorer.batches}
            arrays |= {"vectors": self.scorer.sample.vectors, "energies": self.scorer.sample.energies}
            if self.scorer.logs is not None and self.scorer.profiles is not None:
                arrays |= {
                    f"profiles.{field.name}": getattr(self.scorer.profiles, field.name) for field in fields(Profiles)
                }
                arrays |= {f"logs.{name}": array for name, array in split_rows(self.scorer.logs).items()}
            arrays.pop("smoother.points")
        for name in ("scores.probabilities", "scores.averaged_score", "averager.averaged"):
            arrays.pop(name, None)
        packed = {name: pack(array) for name, array in arrays.items() if array is not None}
        metadata = _ModelMetadata(
            self.smoothed,
            self.inferred,
            self.report,
            self.comparison,
            rule,
            self.compatibility,
            {name: layout for name, (_, layout) in packed.items()},
        )
        content = {name: array for name, (array, _) in packed.items()}
        return save_tensors(content, metadata={"query_model": msgspec.json.encode(metadata).decode()})

    @classmethod
    def load(cls, content: bytes, geometry: LabelGeometry | None) -> QueryModel:
        """Return a model from the content that :meth:`save` returned, with the label geometry of the same reference."""
        size = int.from_bytes(content[:8], "little")
        text = msgspec.json.decode(content[8 : 8 + size])["__metadata__"]["query_model"]
        metadata = msgspec.json.decode(text, type=_ModelMetadata)
        arrays = {name: unpack(array, metadata.layouts[name]) for name, array in load_tensors(content).items()}

        def part(kind: Any, name: str) -> Any:
            own = {key.removeprefix(f"{name}."): arrays[key] for key in arrays if key.startswith(f"{name}.")}
            return kind(**own) if own else None

        pca, lda, scorer = part(QueryPCA, "pca"), part(QueryLDA, "lda"), None
        if geometry is not None and "vectors" in arrays:
            sample = NetworkOutput(arrays["vectors"], arrays["smoother.probabilities"], arrays["energies"])
            profiles, logs = part(Profiles, "profiles"), None
            if profiles is not None:
                rows = {key.removeprefix("logs."): arrays[key] for key in arrays if key.startswith("logs.")}
                logs = joined_rows(rows, profiles.means.shape[1])
            scorer = OODScorer(geometry, sample, arrays["batches"], logs, profiles, arrays.get("effects"))
            arrays["smoother.points"] = _coordinates(pca, sample, logs)
        smoother = part(KNNSmoother, "smoother")
        probabilities = smoother.smooth(smoother.probabilities, smoother.points, smoother.neighbours)
        arrays["scores.probabilities"] = lda.reweight(probabilities, smoother.points) if lda else probabilities
        averager = None
        if "averager.scores" in arrays:
            averager = ScoreAverager.from_scores(
                arrays["averager.median_excess"], arrays["averager.scores"], smoother.neighbours
            )
            arrays["scores.averaged_score"] = averager.average_sample(smoother.neighbours)
        rule = None
        if metadata.rule:
            rule = RejectionRule(**metadata.rule | {"limits": arrays.get("limits"), "ood": part(OODRule, "ood")})
        return cls(
            scale=(arrays["mean"], arrays["std"]) if "mean" in arrays else None,
            pca=pca,
            smoother=smoother,
            lda=lda,
            scorer=scorer,
            averager=averager,
            match=part(LabelMatch, "match"),
            scores=part(CellScores, "scores"),
            smoothed=metadata.smoothed,
            inferred=metadata.inferred,
            report=metadata.report,
            comparison=metadata.comparison,
            rule=rule,
            compatibility=metadata.compatibility,
        )

    def _scores(
        self, output: NetworkOutput, logs: sparse.csr_matrix | None, rows: Rows, batches: Integers
    ) -> CellScores:
        """Return the scores of cells outside of the sample from their network output."""
        points = _coordinates(self.pca, output, logs)
        neighbours = np.empty((len(rows), 0), dtype=np.int64)
        if self.smoothed:
            neighbours = self.smoother.nearest(points, rows)
        if self.inferred:
            near = self.scores.batches[neighbours]  # (n, 14)
            batches = np.stack([(near == batch).sum(axis=1) for batch in range(near.max() + 1)]).argmax(axis=0)
        probabilities = self.smoother.smooth(output.probabilities, points, neighbours)
        probabilities = self.lda.reweight(probabilities, points) if self.lda else probabilities
        clusters = None if self.scores.clusters is None else most_frequent(self.scores.clusters[neighbours])
        nearest = np.full((len(rows), NEAREST), -1, dtype=np.int32)
        nearest[:, : neighbours.shape[1]] = neighbours[:, :NEAREST]
        if self.scorer is None or self.averager is None:
            return CellScores(probabilities, batches, clusters=clusters, nearest=nearest)
        evidence = self.scorer.score(output, logs, neighbours, batches)
        averaged = self.averager.average(evidence, batches, neighbours)
        return CellScores(probabilities, batches, evidence.id_score, averaged, clusters, nearest)


class _UnknownFit(NamedTuple):
    """Parts of a :class:`QueryModel` that decide which cells are Unknown."""

    scorer: OODScorer | None
    averager: ScoreAverager | None
    match: LabelMatch | None
    comparison: Comparison | None
    scores: CellScores


def _fit_unknown(
    geometry: LabelGeometry,
    smoother: KNNSmoother,
    output: NetworkOutput,
    logs: sparse.csr_matrix | None,
    profiles: Profiles | None,
    scores: CellScores,
) -> _UnknownFit:
    """Fit the parts that decide which cells are Unknown, and return them with the scores of the sample."""
    best, batches, neighbours = scores.probabilities.argmax(axis=1), scores.batches, smoother.neighbours
    scorer = geometry.scorer(smoother, output, logs, profiles, batches)
    evidence = scorer.score(output, logs, neighbours, batches)
    averager = ScoreAverager.fit(evidence, best, batches, neighbours)
    scores = replace(scores, id_score=evidence.id_score, averaged_score=averager.average_sample(neighbours))
    if logs is None or profiles is None:
        match = LabelMatch.fit(output.vectors, best, batches, geometry.profiles, [])
        return _UnknownFit(scorer, averager, match, None, scores)
    allowed = range(len(profiles.means)) if geometry.allowed is None else geometry.allowed
    markers = [marker for marker in marker_genes(profiles) if marker[0] in allowed]
    match = LabelMatch.fit(logs, best, batches, profiles, markers)
    comparison = Comparison.fit(LabelMeans.fit(logs, best, len(profiles.means)), profiles, markers)
    # Cells of an excluded type may have any allowed label, so their agreement with the label means nothing.
    if geometry.allowed is None:
        comparison = replace(comparison, cells=CellAgreement.fit(scorer, best, neighbours))
    return _UnknownFit(scorer, averager, match, comparison, scores)


def _batches_note(batches: Integers) -> tuple[str, ...]:
    """Return a note on the batches that were inferred from a sample of cells; an empty tuple for one batch."""
    if not batches.any():
        return ()
    sizes = ", ".join(str(cells) for cells in sorted(np.bincount(batches), reverse=True))
    note = (
        f"No column of obs names batches. {batches.max() + 1} batches were inferred ({sizes} of {len(batches)} sampled "
        "cells), and Unknown is decided within each batch. To name a column: batch_key='COLUMN' (--batch-key COLUMN). "
        "To treat all cells as one batch: batch_key=None (--no-batch)."
    )
    return (note,)


def _coordinates(pca: QueryPCA | None, output: NetworkOutput, logs: sparse.csr_matrix | None) -> Floats:
    """Return the coordinates for the search of neighbours, shape (n, D): principal components, else vectors."""
    return output.vectors if pca is None or logs is None else pca.transform(logs)


class _ModelMetadata(msgspec.Struct):
    """Contents of a saved model other than arrays."""

    smoothed: bool
    inferred: bool
    report: InputReport
    comparison: Comparison | None
    rule: dict[str, Any] | None
    compatibility: Compatibility | None
    layouts: dict[str, Layout]

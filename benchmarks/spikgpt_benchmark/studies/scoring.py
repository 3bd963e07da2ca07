"""Train references, label queries under several rejection rules, and compute the figures of the labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

import spikgpt
from spikgpt import Annotation, SpikGPT
from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.obs import batches_of
from spikgpt.engines.torch import TorchEngine
from spikgpt.options import AnnotateOptions, options_of
from spikgpt.pipeline import annotate
from spikgpt.scoring.compatibility import Compatibility
from spikgpt.scoring.rejection import fit_rejection
from spikgpt.training.calibration import score_all
from spikgpt.training.metrics import measure, reliability, unknown_auroc
from spikgpt.types import Bools, Floats, InputReport, Strings
from spikgpt_benchmark.studies.datasets import LABEL, donor_column
from spikgpt_benchmark.studies.suite import Record

DEFAULT, NO_REJECTION = "default", "no rejection"
RULES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    NO_REJECTION: {"unknown_rate": 0.0},
    "threshold 0.95": {"threshold": 0.95},
    "reference cut-off": {"reference_cutoff": True},
}
# The default rule without the compatibility check. The check may make all cells Unknown.
UNCHECKED = "default, unchecked"
# Modules of spikgpt whose code affects a trained reference.
TRAINED_BY = ("cells", "embedding", "engines", "scoring", "training", "pipeline.py")


def annotate_with(model: SpikGPT, cells: AnnData, options: dict[str, Any]) -> Annotation:
    """Annotate cells with these options, and leave the AnnData unchanged."""
    return annotate(model.reference, model.engine, cells, options_of(AnnotateOptions, options))


def aligned_cells(model: SpikGPT, cells: AnnData) -> tuple[TorchEngine, AlignedCells]:
    """Return the torch engine of a reference, and the cells aligned to the genes of the engine's embedding."""
    assert isinstance(model.engine, TorchEngine)
    return model.engine, joined(list(model.engine.embedding.read(cells, layer=None, scaling="auto").chunks))


def train_or_load(cells: AnnData, cache: Path, seed: int = 0) -> SpikGPT:
    """Return the reference of some cells from the cache; train and store the reference if it is not there."""
    folder = cache / _reference_key(cells, seed)
    if not folder.exists():
        SpikGPT.train(cells, LABEL, batch_key=donor_column(cells), seed=seed).save_pretrained(folder)
    return SpikGPT.from_pretrained(folder, engine="torch")


def _reference_key(cells: AnnData, seed: int) -> str:
    """Return a hash of the cells, of the seed and of the code that trains a reference."""
    package, digest = Path(spikgpt.__file__).parent, hashlib.sha256()
    for part in TRAINED_BY:
        for path in sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]:
            digest.update(path.read_bytes())
    values = sparse.csr_matrix(cells.X)
    for array in (values.data, values.indices, values.indptr):
        digest.update(np.ascontiguousarray(array).tobytes())
    donors = donor_column(cells)
    columns = [cells.var_names, cells.obs[LABEL], cells.obs[donors] if donors else [""], [seed]]
    digest.update(json.dumps([list(map(str, column)) for column in columns]).encode())
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class QueryScores:
    """Labels of n cells; an empty cell is Unknown by every rule, with the lowest confidence.

    ``best`` holds the best labels, ``confidence`` their probability, and ``ood_score`` the OOD score of the default
    rule. ``unknown`` holds the Unknown cells by rule. All are of shape (n,). ``names`` are the reference's labels.
    """

    names: tuple[str, ...]
    best: Strings
    confidence: Floats
    ood_score: Floats
    unknown: dict[str, Bools]
    compatibility: Compatibility | None
    report: InputReport

    @property
    def refused(self) -> bool:
        """True if the compatibility check refuses the query."""
        return self.compatibility is not None and not self.compatibility.usable


def score_query(model: SpikGPT, query: AnnData) -> QueryScores:
    """Score the cells of a query once, as the pipeline does, and apply every rule to the scores.

    Raises
    ------
    GenesError
        When the query shares too few genes with the reference.
    """
    reference, engine = model.reference, model.engine
    assert isinstance(engine, TorchEngine)
    assert reference.familiarity is not None
    read = engine.embedding.read(query, layer=None, scaling="auto")
    cells, batches = joined(list(read.chunks)), batches_of(query, "auto").codes
    fitted, scores = score_all(engine, reference.familiarity, cells, smoothing=True, batches=batches, batch_key="auto")
    thresholds, names = reference.thresholds, reference.labels.names
    scores = replace(scores, probabilities=fitted.calibrated(thresholds, scores.probabilities))

    def with_empty_cells(values: npt.NDArray[Any], of_empty: Any) -> npt.NDArray[Any]:
        column = np.full(len(cells.totals), of_empty, dtype=values.dtype)
        column[~cells.empty] = values
        return column

    unknown, compatibility = {}, {}
    for name, rule in RULES.items():
        ruled = fitted.with_rule(thresholds, names, options_of(AnnotateOptions, rule))
        assert ruled.rule is not None
        unknown[name] = with_empty_cells(ruled.rule.is_unknown(scores), True)
        compatibility[name] = ruled.compatibility
    sample = replace(fitted.scores, probabilities=fitted.calibrated(thresholds, fitted.scores.probabilities))
    known: dict[str, Any] = {"smoothed": fitted.smoothed, "few_genes": fitted.report.few_genes}
    unchecked = fit_rejection(thresholds, AnnotateOptions(), names, sample, fitted.match, **known)
    ood_score = unchecked.ood_scores(scores)
    assert ood_score is not None
    unknown[UNCHECKED] = with_empty_cells(unchecked.is_unknown(scores), True)
    return QueryScores(
        names,
        with_empty_cells(np.array(names)[scores.probabilities.argmax(axis=1)], ""),
        with_empty_cells(scores.probabilities.max(axis=1), 0),
        with_empty_cells(ood_score, np.inf),
        unknown,
        compatibility[DEFAULT],
        read.report,
    )


def open_set_accuracy(right: Bools, known: Bools, unknown: Bools) -> float:
    """Return the share of cells that are known and keep their label, or are unseen and Unknown."""
    return float(np.where(known, right & ~unknown, unknown).mean())


def best_open_set_accuracy(ood_score: Floats, right: Bools, known: Bools) -> float:
    """Return the highest open-set accuracy that one cut-off on the OOD score can reach, given the true labels."""
    order = np.argsort(-ood_score, kind="stable")
    gains = np.where(known, -(right.astype(int)), 1)[order]
    # A cut-off cannot separate cells of equal scores.
    distinct = np.concatenate([[True], ood_score[order][1:] < ood_score[order][:-1], [True]])
    reached = (right & known).sum() + np.concatenate([[0], np.cumsum(gains)])
    return float(reached[distinct].max() / len(known))


def known_agreement(scores: QueryScores, truth: Strings) -> dict[str, float]:
    """Return accuracy and macro-F1 of the best labels, over the cells whose type the reference has."""
    known = np.isin(truth, scores.names)
    agreement = measure(truth[known], scores.best[known])
    return {"accuracy": agreement.accuracy, "macro-F1": agreement.macro_f1}


def figures(scores: QueryScores, truth: Strings) -> Record:
    """Return the figures of a query's labels, given the true labels; None for figures without any cells."""
    known, right = np.isin(truth, scores.names), scores.best == truth
    both = {"": scores.unknown[DEFAULT], ": unchecked": scores.unknown[UNCHECKED]}
    confidence = scores.confidence[known]
    return {
        **{f"open-set: {rule}": open_set_accuracy(right, known, unknown) for rule, unknown in scores.unknown.items()},
        "open-set: best cut-off": best_open_set_accuracy(scores.ood_score, right, known),
        **{f"known Unknown{rule}": float(unknown[known].mean()) for rule, unknown in both.items()},
        **{
            f"unseen Unknown{rule}": None if known.all() else float(unknown[~known].mean())
            for rule, unknown in both.items()
        },
        "AUROC unseen": unknown_auroc(-scores.ood_score, known),
        **known_agreement(scores, truth),
        "AUROC wrong": unknown_auroc(confidence, right[known]),
        "calibration error": reliability(confidence, right[known])["expected_calibration_error"],
    }

"""How good the answers of methods are, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from spikgpt.benchmark.methods.answer import Answer
from spikgpt.benchmark.task import Task
from spikgpt.reference.schema import Agreement
from spikgpt.training.metrics import measure, reliability, unknown_auroc
from spikgpt.types import UNKNOWN, Bools, Floats, Rows, Strings

# Samples of the query's cells, drawn with replacement, that standard errors come from.
SAMPLES = 200


@dataclass(frozen=True)
class Measured:
    """What one answer reaches.

    ``figures`` are None where a method or the task does not have them; ``errors`` are standard errors, over the cells
    of the query, of those that methods are ranked by.
    """

    agreement: Agreement
    figures: dict[str, float | None]
    errors: dict[str, float] = field(default_factory=dict)


def measure_answer(task: Task, answer: Answer) -> Measured:
    """Hold an answer against the truth.

    Labels are compared before rejection, over the cells whose type the reference has. The share that is right is that
    of all cells, after rejection: their label, or none where the reference does not have it.
    """
    known, labels = task.known, answer.labels
    agreement = measure(task.truth[known], labels[known])
    right = labels == task.truth
    assigned = np.ones(len(labels), dtype=bool) if answer.assigned is None else answer.assigned
    kept = assigned & known
    answered_right = np.where(known, right & assigned, ~assigned)
    confidence = answer.confidence
    calibration = None
    if answer.probabilities is not None:
        largest = np.clip(answer.probabilities.max(axis=1), 0, 1)
        calibration = reliability(largest[known], right[known])["expected_calibration_error"]
    figures = {
        "accuracy": agreement.accuracy,
        "macro_precision": agreement.macro_precision,
        "macro_recall": agreement.macro_recall,
        "macro_f1": agreement.macro_f1,
        "balanced_accuracy": agreement.macro_recall,
        "share_right": float(answered_right.mean()),
        "share_assigned": float(assigned.mean()),
        "accuracy_of_assigned": float(right[kept].mean()) if kept.any() else None,
        "rejected_known": float((~assigned)[known].mean()),
        "rejected_unseen": None if known.all() else float((~assigned)[~known].mean()),
        "auroc_unseen": None if confidence is None else unknown_auroc(confidence, known),
        "calibration_error": calibration,
        "train_seconds": float(answer.train_seconds),
        "predict_seconds": float(answer.predict_seconds),
        "total_seconds": float(answer.train_seconds + answer.predict_seconds),
    }
    errors = {
        "accuracy": _of_share(right[known]),
        "share_right": _of_share(answered_right),
        "macro_f1": _spread(int(known.sum()), _resampled_f1(task.truth[known], labels[known])),
    }
    if figures["auroc_unseen"] is not None and confidence is not None:
        scores: Floats = confidence
        errors["auroc_unseen"] = _spread(len(known), lambda cells: unknown_auroc(scores[cells], known[cells]))
    return Measured(agreement, figures, errors)


def given(answer: Answer) -> Strings:
    """Return the label of each cell after rejection, (n,)."""
    if answer.assigned is None:
        return answer.labels
    return np.where(answer.assigned, answer.labels, UNKNOWN)


def paired_p(right: Bools, other: Bools) -> float:
    """Return how likely two methods that are equally good differ so much: McNemar's exact test, over the same cells.

    ``right`` and ``other`` say of each cell, (n,), whether either of them is right.
    """
    from scipy.stats import binomtest

    first, second = int((right & ~other).sum()), int((other & ~right).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def _of_share(hits: Bools) -> float:
    """Return the standard error of a share of cells."""
    share = float(hits.mean())
    return math.sqrt(share * (1 - share) / len(hits))


def _spread(cells: int, figure: Callable[[Rows], float | None]) -> float:
    """Return the standard deviation of a figure over samples of cells drawn with replacement."""
    random = np.random.default_rng(0)
    found = (figure(random.integers(cells, size=cells)) for _ in range(SAMPLES))
    return float(np.std([value for value in found if value is not None]))


def _resampled_f1(truth: Strings, labels: Strings) -> Callable[[Rows], float]:
    """Return what gives the macro-F1 of some cells, over the types that these truly have."""
    names, codes = np.unique(np.concatenate([truth, labels]), return_inverse=True)
    pairs, size = codes[: len(truth)] * len(names) + codes[len(truth) :], len(names)

    def figure(cells: Rows) -> float:
        counts = np.bincount(pairs[cells], minlength=size * size).reshape(size, size)
        support, found = counts.sum(axis=1), counts.sum(axis=0)
        scores = 2 * counts.diagonal() / np.maximum(support + found, 1)
        return float(scores[support > 0].mean())

    return figure

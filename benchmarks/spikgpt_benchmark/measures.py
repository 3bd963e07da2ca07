"""Compute the figures of a method's result, such as accuracy, and their standard errors over the cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from spikgpt.reference.schema import Agreement
from spikgpt.training.metrics import measure, reliability, unknown_auroc
from spikgpt.types import UNKNOWN, Bools, Floats, Rows, Strings
from spikgpt_benchmark.methods.result import MethodResult
from spikgpt_benchmark.task import BenchmarkTask

# Number of bootstrap samples of the query's cells.
SAMPLES = 200


@dataclass(frozen=True)
class ResultScores:
    """Figures of one result by name; None for a figure that the method or the task does not have.

    ``errors`` has the standard errors, over the cells of the query, of the figures that methods are ranked by.
    """

    agreement: Agreement
    figures: dict[str, float | None]
    errors: dict[str, float] = field(default_factory=dict)


def score_result(task: BenchmarkTask, result: MethodResult) -> ResultScores:
    """Compare a result with the true labels.

    Accuracy and F1 compare labels before rejection, over the cells whose type the reference has. The open-set accuracy
    compares all cells after rejection. A known cell is right with its true label, an unseen cell without a label.
    """
    known, confidence, right = task.known, result.confidence, result.labels == task.truth
    truth, labels = task.truth[known], result.labels[known]
    agreement = measure(truth, labels)
    assigned = np.ones(len(right), dtype=bool) if result.assigned is None else result.assigned
    open_set = np.where(known, right & assigned, ~assigned)
    calibration = None
    if result.probabilities is not None:
        largest = np.clip(result.probabilities.max(axis=1), 0, 1)
        calibration = reliability(largest[known], right[known])["expected_calibration_error"]
    figures = {
        "accuracy": agreement.accuracy,
        "macro_precision": agreement.macro_precision,
        "macro_recall": agreement.macro_recall,
        "macro_f1": agreement.macro_f1,
        "balanced_accuracy": agreement.macro_recall,
        "open_set_accuracy": float(open_set.mean()),
        "share_assigned": float(assigned.mean()),
        "accuracy_of_assigned": float(right[assigned & known].mean()) if (assigned & known).any() else None,
        "rejected_known": float((~assigned)[known].mean()),
        "rejected_unseen": None if known.all() else float((~assigned)[~known].mean()),
        "auroc_unseen": None if confidence is None else unknown_auroc(confidence, known),
        "calibration_error": calibration,
        "train_seconds": float(result.train_seconds),
        "predict_seconds": float(result.predict_seconds),
        "total_seconds": float(result.train_seconds + result.predict_seconds),
    }
    errors = {
        "accuracy": _error_of_share(right[known]),
        "open_set_accuracy": _error_of_share(open_set),
        "macro_f1": _bootstrap_error(len(truth), _resampled_f1(truth, labels)),
    }
    if figures["auroc_unseen"] is not None and confidence is not None:
        scores: Floats = confidence
        errors["auroc_unseen"] = _bootstrap_error(len(known), lambda cells: unknown_auroc(scores[cells], known[cells]))
    return ResultScores(agreement, figures, errors)


def labels_after_rejection(result: MethodResult) -> Strings:
    """Return the label of each cell, or Unknown where the method rejects the cell, shape (n,)."""
    return result.labels if result.assigned is None else np.where(result.assigned, result.labels, UNKNOWN)


def mcnemar_p(right: Bools, other: Bools) -> float:
    """Return the p-value of McNemar's exact test, given the correctly labelled cells of two methods, shape (n,)."""
    from scipy.stats import binomtest

    first, second = int((right & ~other).sum()), int((other & ~right).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def _error_of_share(hits: Bools) -> float:
    """Return the standard error of the share of cells that are True in ``hits``, shape (n,)."""
    return float(hits.std() / np.sqrt(len(hits)))


def _bootstrap_error(n_cells: int, figure: Callable[[Rows], float | None]) -> float:
    """Return the standard deviation of a figure over bootstrap samples of the cells."""
    random = np.random.default_rng(0)
    values = (figure(random.integers(n_cells, size=n_cells)) for _ in range(SAMPLES))
    return float(np.std([value for value in values if value is not None]))


def _resampled_f1(truth: Strings, labels: Strings) -> Callable[[Rows], float]:
    """Return a function from indices of cells to the macro-F1 over the true types of these cells."""
    names, codes = np.unique(np.concatenate([truth, labels]), return_inverse=True)
    pairs, size = codes[: len(truth)] * len(names) + codes[len(truth) :], len(names)

    def macro_f1(cells: Rows) -> float:
        counts = np.bincount(pairs[cells], minlength=size * size).reshape(size, size)
        support, predicted = counts.sum(axis=1), counts.sum(axis=0)
        scores = 2 * counts.diagonal() / np.maximum(support + predicted, 1)
        return float(scores[support > 0].mean())

    return macro_f1

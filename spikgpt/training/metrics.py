"""Accuracy of labels, calibration of confidence, and separation of known from unseen cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spikgpt.errors import LabelsError
from spikgpt.reference.schema import Agreement, Confusion, LabelScore
from spikgpt.types import Bools, Floats, Strings

# Number of bins of the reliability diagram.
BINS = 15


def measure(truth: Sequence[str] | Strings, predicted: Sequence[str] | Strings) -> Agreement:
    """Return accuracy, precision, recall and F1 of the predicted against the true labels of at least one cell."""
    truth, predicted = np.asarray(truth, dtype=str), np.asarray(predicted, dtype=str)
    if not truth.size:
        msg = "There are no labelled cells to compare; check that the label column names types of the reference."
        raise LabelsError(msg)
    labels, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (codes[: truth.size], codes[truth.size :]), 1)
    right, support, assigned = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present = support > 0
    # A label that is never predicted has a precision of 0.
    scores = (
        right / np.maximum(assigned, 1),
        right / np.maximum(support, 1),
        2 * right / np.maximum(support + assigned, 1),
    )
    precision, recall, f1 = (score[present] for score in scores)
    columns = (column.tolist() for column in (labels[present], precision, recall, f1, support[present]))
    return Agreement(
        cells=int(truth.size),
        accuracy=float((truth == predicted).mean()),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        per_label=tuple(LabelScore(*row) for row in zip(*columns, strict=True)),
        confusion=Confusion(tuple(labels.tolist()), tuple(map(tuple, counts.tolist()))),
    )


def pooled(agreements: Sequence[Agreement]) -> Agreement:
    """Return the agreement over the cells of several agreements."""
    rows = [
        (truth, predicted, count)
        for agreement in agreements
        for truth, counts in zip(agreement.confusion.labels, agreement.confusion.counts, strict=True)
        for predicted, count in zip(agreement.confusion.labels, counts, strict=True)
    ]
    truth, predicted, counts = zip(*rows, strict=True)
    return measure(np.repeat(truth, counts), np.repeat(predicted, counts))


def reliability(confidence: Floats, right: Bools) -> dict[str, Any]:
    """Return the calibration of the confidence, shape (n,), of cells whose labels are ``right`` or not, shape (n,).

    Returns
    -------
    ``bins`` holds the mean confidence, the accuracy and the number of cells of each of 15 bins of equal width.
    ``expected_calibration_error`` (Guo et al., 2017) is the mean of |confidence - accuracy|, weighted by cells.
    """
    positions = np.minimum((np.asarray(confidence, dtype=np.float64) * BINS).astype(int), BINS - 1)
    bins = []
    for position in np.unique(positions):
        cells = positions == position
        mean, accuracy = float(np.mean(confidence[cells])), float(np.mean(right[cells]))
        bins.append({"confidence": mean, "accuracy": accuracy, "cells": int(cells.sum())})
    errors = [row["cells"] * abs(row["confidence"] - row["accuracy"]) for row in bins]
    return {"expected_calibration_error": sum(errors) / max(1, len(right)), "bins": bins}


def unknown_auroc(scores: Floats, known: Bools) -> float | None:
    """Return the AUROC of known against unseen cells by a score that is higher for known cells.

    ``scores`` and ``known`` have shape (n,). The AUROC is None if all cells are known, or all are unseen.
    """
    if known.all() or not known.any():
        return None
    # Mean share of unseen cells with a lower score than a known cell; a tie counts half.
    unseen = np.sort(scores[~known])
    below = sum(np.searchsorted(unseen, scores[known], side=side).mean() for side in ("left", "right")) / 2
    return float(below / len(unseen))


def tpr_at_fpr(scores: Floats, known: Bools, fpr: float) -> float:
    """Return the share of unseen cells below the score that a share ``fpr`` of the known cells lies below.

    ``scores`` and ``known`` have shape (n,). There must be known and unseen cells.
    """
    rank = int(fpr * known.sum())
    return float((scores[~known] < np.sort(scores[known])[rank]).mean())

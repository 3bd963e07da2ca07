"""Measures of how well labels agree with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spikgpt.errors import LabelsError
from spikgpt.reference.schema import Agreement, Confusion, LabelScore
from spikgpt.types import Bools, Floats, Strings

# Of the reliability diagram.
BINS = 15


def measure(truth: Sequence[str] | Strings, predicted: Sequence[str] | Strings) -> Agreement:
    """Compare the predicted with the true label of each cell, of which there has to be one."""
    truth, predicted = np.asarray(truth, dtype=str), np.asarray(predicted, dtype=str)
    if not truth.size:
        msg = "There are no labelled cells to compare; check that the label column names types of the reference."
        raise LabelsError(msg)
    labels, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (codes[: truth.size], codes[truth.size :]), 1)
    right, support, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present = support > 0
    # A label that is never predicted has a precision of 0.
    scores = right / np.maximum(found, 1), right / np.maximum(support, 1), 2 * right / np.maximum(support + found, 1)
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


def reliability(confidence: Floats, right: Bools) -> dict[str, Any]:
    """Return how well the confidence of each cell, shape (n,), agrees with how often labels are ``right``, shape (n,).

    That is ``expected_calibration_error`` (Guo et al., 2017), the mean difference of the two over 15 bins of equal
    width, weighted by their cells; and of each bin that has cells its mean ``confidence``, ``accuracy`` and ``cells``.
    """
    places = np.minimum((np.asarray(confidence, dtype=np.float64) * BINS).astype(int), BINS - 1)
    bins = [
        {
            "confidence": float(np.mean(confidence[places == place])),
            "accuracy": float(np.mean(right[places == place])),
            "cells": int((places == place).sum()),
        }
        for place in np.unique(places)
    ]
    errors = [row["cells"] * abs(row["confidence"] - row["accuracy"]) for row in bins]
    return {"expected_calibration_error": sum(errors) / max(1, len(right)), "bins": bins}


def unknown_auroc(confidence: Floats, known: Bools) -> float | None:
    """Return how well confidence, (n,), separates ``known`` from unseen cells, (n,): the area under the ROC curve.

    1 when every known cell is more confident than every unseen one, 0.5 at chance; None when all cells are of one kind.
    """
    if known.all() or not known.any():
        return None
    # The share of unseen cells that a known one is more confident than; a tie counts half.
    unseen = np.sort(confidence[~known])
    below = sum(np.searchsorted(unseen, confidence[known], side=side).mean() for side in ("left", "right")) / 2
    return float(below / len(unseen))


def unseen_found(confidence: Floats, known: Bools, known_rejected: float) -> float:
    """Return the share of unseen cells below the confidence, (n,), that a share of the ``known`` cells, (n,), is below.

    There must be cells of both kinds.
    """
    rank = int(known_rejected * known.sum())
    return float((confidence[~known] < np.sort(confidence[known])[rank]).mean())

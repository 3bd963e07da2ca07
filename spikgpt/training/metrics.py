"""Measures of how well labels agree with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from spikgpt.errors import LabelsError

Labels = npt.NDArray[np.str_]
# Of the reliability diagram.
BINS = 15


@dataclass(frozen=True)
class LabelScore:
    """How one label fared.

    Precision, recall and F1 are shares from 0 to 1; ``cells`` counts the cells that truly have the label.
    """

    label: str
    precision: float
    recall: float
    f1: float
    cells: int


@dataclass(frozen=True)
class Metrics:
    """Agreement of predicted with true labels.

    Macro averages run over the labels present in the truth, each with the same weight. ``confusion`` has a row for
    each label of ``confusion_labels`` as truth and a column as prediction.
    """

    cells: int
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    per_label: tuple[LabelScore, ...]
    confusion_labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "cells": self.cells,
            "accuracy": self.accuracy,
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "per_label": [vars(score) for score in self.per_label],
            "confusion": {"labels": list(self.confusion_labels), "counts": [list(row) for row in self.confusion]},
        }


def measure(truth: Sequence[str] | Labels, predicted: Sequence[str] | Labels) -> Metrics:
    """Compare predicted with true labels.

    Parameters
    ----------
    truth
        True label of each cell.
    predicted
        Predicted label of each cell.

    Raises
    ------
    LabelsError
        When there are no cells to compare.
    """
    truth, predicted = np.asarray(truth, dtype=str), np.asarray(predicted, dtype=str)
    if not truth.size:
        msg = "There are no labelled cells to compare; check that the label column names types of the reference."
        raise LabelsError(msg)
    present = np.unique(truth)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=present, average=None, zero_division=0
    )
    everything = np.unique(np.concatenate([truth, predicted]))
    return Metrics(
        cells=int(truth.size),
        accuracy=float((truth == predicted).mean()),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        per_label=tuple(
            LabelScore(str(label), float(p), float(r), float(f), int(n))
            for label, p, r, f, n in zip(present, precision, recall, f1, support, strict=True)
        ),
        confusion_labels=tuple(everything.tolist()),
        confusion=tuple(
            tuple(row) for row in confusion_matrix(truth, predicted, labels=everything).astype(int).tolist()
        ),
    )


def reliability(confidence: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return how well confidence agrees with how often labels are right (Guo et al., 2017).

    Parameters
    ----------
    confidence
        Probability of each cell's best label, shape (n,).
    right
        Whether that label is right, shape (n,).

    Returns
    -------
    ``expected_calibration_error``, the mean difference of the two over 15 bins of equal width, weighted by their cells,
    and for each bin that has cells its mean ``confidence``, its ``accuracy`` and its ``cells``.
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


def unknown_auroc(confidence: npt.NDArray[np.floating[Any]], known: npt.NDArray[np.bool_]) -> float | None:
    """Return how well confidence separates known from unseen types, as the area under the ROC curve.

    Parameters
    ----------
    confidence
        Confidence of each cell, shape (n,).
    known
        Whether the true type of each cell is in the reference, shape (n,).

    Returns
    -------
    1 when every known cell is more confident than every unseen one, 0.5 at chance; None when all cells are of one kind.
    """
    if known.all() or not known.any():
        return None
    return float(roc_auc_score(known, confidence))


def unseen_found(
    confidence: npt.NDArray[np.floating[Any]], known: npt.NDArray[np.bool_], known_rejected: float
) -> float:
    """Return the share of unseen cells below the confidence that a share of the known cells is below.

    Parameters
    ----------
    confidence
        Confidence of each cell, shape (n,).
    known
        Whether the true type of each cell is in the reference, shape (n,); there must be cells of both kinds.
    """
    rank = int(known_rejected * known.sum())
    return float((confidence[~known] < np.sort(confidence[known])[rank]).mean())

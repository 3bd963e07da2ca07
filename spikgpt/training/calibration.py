"""Measure a fitted model on held-out cells: thresholds for Unknown, temperatures, and accuracy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.cell_cache import CellCache
from spikgpt.engines.query_model import QueryModel
from spikgpt.engines.torch import TorchEngine
from spikgpt.options import AnnotateOptions
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.scoring.rejection import CellScores
from spikgpt.scoring.thresholds import PAPER_THRESHOLD, Calibration, Thresholds, fit_temperature, tempered
from spikgpt.training.fit import FittedModel
from spikgpt.training.metrics import measure, reliability
from spikgpt.types import UNKNOWN, Floats, InputReport, Integers, Strings


def calibrate(
    fitted: FittedModel, cells: AlignedCells, labels: Strings, *, temperature: bool = True
) -> tuple[Thresholds, dict[str, Any]]:
    """Set the thresholds for Unknown on held-out cells, and measure the model on the same cells.

    Parameters
    ----------
    cells
        n held-out cells, with the genes of the model.
    labels
        Label of each cell, shape (n,), among the labels of the model.
    temperature
        True to calibrate the probabilities too, by a temperature.

    Returns
    -------
    The thresholds, and the entries ``held_out``, ``reliability`` and ``paper_threshold_rejects`` of ``metrics.json``.
    """
    names, filled = np.array(fitted.names), ~cells.empty
    truth = np.searchsorted(names, labels)[filled]
    engine, fits = fitted.engine, []
    for smoothing in (False, True):
        model, scores = score_all(engine, fitted.geometry, cells, smoothing=smoothing)
        fitted_temperature = fit_temperature(scores.probabilities, truth) if temperature else 1.0
        assert scores.id_score is not None  # None only for a reference of format 1
        best = names[scores.probabilities.argmax(axis=1)]
        fits.append((scores, Calibration.fit(scores.id_score, best, fitted_temperature)))
        # The second pass smooths probabilities that are calibrated with the temperature of the first pass.
        engine = replace(engine, temperature=fitted_temperature)
    (unsmoothed, single), (scores, smoothed) = fits
    confidence = tempered(unsmoothed.probabilities, single.temperature).max(axis=1)
    thresholds = Thresholds.fit(confidence, single=single, smoothed=smoothed)
    final = tempered(scores.probabilities, smoothed.temperature if model.smoothed else 1.0)
    predicted = np.full(len(labels), UNKNOWN, dtype=object)
    predicted[filled] = names[final.argmax(axis=1)]
    return thresholds, {
        "held_out": measure(labels, predicted.astype(str)).to_dict(),
        "reliability": held_out_reliability(scores.probabilities, truth, temperature=temperature),
        "paper_threshold_rejects": float((final.max(axis=1).astype(np.float32) < PAPER_THRESHOLD).mean()),
    }


def score_all(
    engine: TorchEngine,
    geometry: LabelGeometry,
    cells: AlignedCells,
    *,
    smoothing: bool,
    batches: Integers | None = None,
    batch_key: str | None = None,
) -> tuple[QueryModel, CellScores]:
    """Return the model of a query, and the scores of its non-empty cells as an annotation computes the scores.

    Parameters
    ----------
    batches
        Index of the batch of each cell, shape (n,); None for one batch.
    batch_key
        "auto" to infer batches from the cells if ``batches`` has one batch only; None to infer nothing.
    """
    rows = np.flatnonzero(~cells.empty)
    filled, batches = cells.part(rows), np.zeros(len(rows), dtype=np.int64) if batches is None else batches[rows]
    report = InputReport("training cells", cells.kind, "auto", 0, 0)
    options = AnnotateOptions(smoothing=smoothing, batch_key=batch_key)
    with CellCache() as cache:
        cache.append(filled)
        sample, sampled = cache.sample()
    model = QueryModel.fit(engine, geometry, sample, sampled, batches=batches[sampled], report=report, options=options)
    return model, model.score(engine, filled, np.arange(len(rows)), batches=batches)


def held_out_reliability(probabilities: Floats, truth: Integers, *, temperature: bool) -> dict[str, Any]:
    """Return the reliability of calibrated probabilities, by two-fold cross-validation of the temperature.

    Parameters
    ----------
    probabilities
        Smoothed label probabilities of held-out cells before calibration, shape (n, L).
    truth
        Index of each cell's label, shape (n,).
    temperature
        False to measure the probabilities without calibration.
    """
    confidence, right = np.empty(len(truth)), probabilities.argmax(axis=1) == truth
    even = np.arange(len(truth)) % 2 == 0
    for half in (even, ~even):
        fitted = fit_temperature(probabilities[~half], truth[~half]) if temperature and (~half).any() else 1.0
        confidence[half] = tempered(probabilities[half], fitted).max(axis=1)
    return reliability(confidence, right)

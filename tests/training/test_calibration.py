"""Thresholds, temperatures and accuracy measured on held-out cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikgpt.cells.align import AlignedCells
from spikgpt.scoring.thresholds import LARGEST_THRESHOLD, conformal_rank, fit_temperature, tempered
from spikgpt.training.calibration import calibrate, held_out_reliability, score_all
from spikgpt.training.cells import TrainingCells
from spikgpt.training.fit import FittedModel
from spikgpt.training.metrics import reliability
from spikgpt.types import Strings
from tests.training.conftest import HELD_ROWS


def held_out(prepared: TrainingCells, fitted: FittedModel) -> tuple[AlignedCells, Strings]:
    """Return the held-out cells, every third cell, with the genes of the model, and their labels."""
    rows = np.flatnonzero(HELD_ROWS)
    return prepared.values.select(rows, fitted.columns), prepared.labels[rows]


def test_scores_equal_those_of_the_pipeline(prepared: TrainingCells, fitted: FittedModel) -> None:
    held_out_cells, _ = held_out(prepared, fitted)
    model, scores = score_all(fitted.engine, fitted.geometry, held_out_cells, smoothing=True)
    assert model.smoothed
    assert scores.probabilities.shape == (120, 6)
    assert scores.id_score is not None
    alone, single_scores = score_all(fitted.engine, fitted.geometry, held_out_cells, smoothing=False)
    assert not alone.smoothed
    np.testing.assert_array_equal(
        single_scores.probabilities, fitted.engine.run(held_out_cells, alone.scale).probabilities
    )
    few, _ = score_all(fitted.engine, fitted.geometry, held_out_cells.part(slice(0, 99)), smoothing=True)
    assert not few.smoothed
    # Cells without counts have no scores.
    emptied = replace(held_out_cells, totals=np.where(np.arange(120) < 20, 0.0, held_out_cells.totals))
    assert len(score_all(fitted.engine, fitted.geometry, emptied, smoothing=True)[1].probabilities) == 100


def test_thresholds_are_set_on_held_out_cells(prepared: TrainingCells, fitted: FittedModel) -> None:
    names, (held_out_cells, labels) = np.array(fitted.names), held_out(prepared, fitted)
    thresholds, metrics = calibrate(fitted, held_out_cells, labels)
    truth = np.searchsorted(names, labels)
    _, alone = score_all(fitted.engine, fitted.geometry, held_out_cells, smoothing=False)
    assert thresholds.single is not None
    assert thresholds.smoothed is not None
    assert thresholds.temperature == fit_temperature(alone.probabilities, truth)
    calibrated = replace(fitted.engine, temperature=thresholds.temperature)
    _, together = score_all(calibrated, fitted.geometry, held_out_cells, smoothing=True)
    assert thresholds.smoothed.temperature == fit_temperature(together.probabilities, truth)
    for calibration, scores in ((thresholds.single, alone), (thresholds.smoothed, together)):
        assert scores.id_score is not None
        assert calibration.everything.cells == 120
        np.testing.assert_allclose(calibration.everything.values, np.sort(scores.id_score), atol=1e-6)
        best = names[scores.probabilities.argmax(axis=1)]
        counts = {name: int((best == name).sum()) for name in names.tolist()}
        assert {name: kept.cells for name, kept in calibration.labels.items()} == {
            name: count for name, count in counts.items() if count >= 10
        }
    confidence = tempered(alone.probabilities, thresholds.temperature).max(axis=1)
    assert thresholds.threshold == min(np.sort(confidence)[conformal_rank(120, 0.05) - 1], LARGEST_THRESHOLD)
    assert thresholds.calibration_cells == metrics["held_out"]["cells"] == 120
    final = tempered(together.probabilities, thresholds.smoothed.temperature)
    assert metrics["held_out"]["accuracy"] == (final.argmax(axis=1) == truth).mean()
    assert metrics["paper_threshold_rejects"] == (final.max(axis=1).astype(np.float32) < 0.95).mean()


def test_empty_held_out_cells_count_as_wrong_and_set_no_threshold(prepared: TrainingCells, fitted: FittedModel) -> None:
    held_out_cells, labels = held_out(prepared, fitted)
    emptied = replace(held_out_cells, totals=np.where(np.arange(120) < 10, 0.0, held_out_cells.totals))
    thresholds, metrics = calibrate(fitted, emptied, labels)
    _, without = calibrate(fitted, held_out_cells.part(slice(10, None)), labels[10:])
    assert thresholds.calibration_cells == 110
    assert metrics["held_out"]["cells"] == 120
    assert metrics["held_out"]["accuracy"] == pytest.approx(without["held_out"]["accuracy"] * 110 / 120)


def test_without_calibration_every_temperature_is_1(prepared: TrainingCells, fitted: FittedModel) -> None:
    thresholds, metrics = calibrate(fitted, *held_out(prepared, fitted), temperature=False)
    assert thresholds.smoothed is not None
    assert (thresholds.temperature, thresholds.smoothed.temperature) == (1, 1)
    assert sum(row["cells"] for row in metrics["reliability"]["bins"]) == 120


def test_reliability_of_each_half_uses_the_temperature_of_the_other_half() -> None:
    random = np.random.default_rng(0)
    honest = random.dirichlet([1.0, 1.0, 1.0], 600)
    truth = np.array([random.choice(3, p=row) for row in honest])
    even = np.arange(600) % 2 == 0
    stated = np.where(even[:, None], tempered(honest, 0.5), honest)  # every other cell is overconfident
    temperatures = {half: fit_temperature(stated[even == half], truth[even == half]) for half in (True, False)}
    assert temperatures[True] > 1.5 > temperatures[False]
    confidence = np.empty(600)
    confidence[even] = tempered(stated[even], temperatures[False]).max(axis=1)
    confidence[~even] = tempered(stated[~even], temperatures[True]).max(axis=1)
    right = stated.argmax(axis=1) == truth
    assert held_out_reliability(stated, truth, temperature=True) == reliability(confidence, right)
    assert held_out_reliability(stated, truth, temperature=False) == reliability(stated.max(axis=1), right)
    single = held_out_reliability(stated[:1], truth[:1], temperature=True)
    assert single == reliability(stated[:1].max(axis=1), right[:1])

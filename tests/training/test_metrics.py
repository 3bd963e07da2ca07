from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, roc_auc_score

from spikgpt.errors import LabelsError
from spikgpt.training.metrics import measure, pooled, reliability, tpr_at_fpr, unknown_auroc


def test_figures_of_a_small_example_are_correct() -> None:
    truth = ["a", "a", "a", "b", "b", "c"]
    predicted = ["a", "a", "b", "b", "d", "c"]
    metrics = measure(truth, predicted)
    assert metrics.cells == 6
    assert metrics.accuracy == pytest.approx(4 / 6)
    assert [(s.label, s.cells) for s in metrics.per_label] == [("a", 3), ("b", 2), ("c", 1)]
    assert [s.precision for s in metrics.per_label] == pytest.approx([1, 1 / 2, 1])
    assert [s.recall for s in metrics.per_label] == pytest.approx([2 / 3, 1 / 2, 1])
    assert [s.f1 for s in metrics.per_label] == pytest.approx([0.8, 0.5, 1])
    assert metrics.macro_f1 == pytest.approx(2.3 / 3)
    assert metrics.macro_precision == pytest.approx(2.5 / 3)
    assert metrics.macro_recall == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_the_confusion_matrix_has_a_row_for_each_true_label() -> None:
    metrics = measure(["a", "a", "b"], ["a", "c", "b"])
    assert metrics.confusion.labels == ("a", "b", "c")
    assert metrics.confusion.counts == ((1, 0, 1), (0, 1, 0), (0, 0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_pooled_over_cells(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.choice(list("abcd"), 200), random.choice(list("bcde"), 200)
    parts = np.split(np.arange(200), [20, 21, 90])
    assert pooled([measure(truth[part], predicted[part]) for part in parts]) == measure(truth, predicted)


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_those_of_sklearn(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.choice(list("abcd"), 200), random.choice(list("abcdef"), 200)
    report = classification_report(truth, predicted, labels=list("abcd"), output_dict=True, zero_division=0)
    metrics = measure(truth, predicted)
    assert metrics.accuracy == accuracy_score(truth, predicted)
    assert metrics.macro_f1 == pytest.approx(report["macro avg"]["f1-score"])
    assert metrics.macro_precision == pytest.approx(report["macro avg"]["precision"])
    assert metrics.macro_recall == pytest.approx(report["macro avg"]["recall"])
    for score in metrics.per_label:
        row = report[score.label]
        values = (score.precision, score.recall, score.f1, score.cells)
        assert values == pytest.approx((row["precision"], row["recall"], row["f1-score"], row["support"]))
    expected = confusion_matrix(truth, predicted, labels=metrics.confusion.labels)
    np.testing.assert_array_equal(metrics.confusion.counts, expected)
    confidence, known = np.round(random.random(200), 1), truth != "a"
    assert unknown_auroc(confidence, known) == pytest.approx(roc_auc_score(known, confidence))


def test_a_label_that_is_never_predicted_scores_zero() -> None:
    scores = {score.label: score for score in measure(["a", "b"], ["a", "a"]).per_label}
    assert (scores["b"].precision, scores["b"].recall, scores["b"].f1) == (0, 0, 0)


def test_metrics_are_plain_json() -> None:
    values = measure(["a", "b"], ["a", "a"]).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert {"accuracy", "macro_precision", "macro_recall", "macro_f1", "per_label", "confusion"} <= values.keys()


def test_no_cells_are_refused() -> None:
    with pytest.raises(LabelsError, match="no labelled cells to compare"):
        measure([], [])


def test_the_auroc_of_a_small_example_is_correct() -> None:
    known = np.array([True, True, False, False])
    assert unknown_auroc(np.array([0.9, 0.8, 0.2, 0.1]), known) == 1
    assert unknown_auroc(np.array([0.1, 0.2, 0.8, 0.9]), known) == 0
    assert unknown_auroc(np.array([0.9, 0.3, 0.5, 0.1]), known) == pytest.approx(0.75)
    assert unknown_auroc(np.array([0.9, 0.3]), np.array([True, True])) is None


def test_the_reliability_of_a_small_example_is_correct() -> None:
    confidence = np.array([0.95, 0.99, 0.97, 0.4, 1.0])
    right = np.array([True, True, False, True, True])
    result = reliability(confidence, right)
    # Two of 15 bins hold cells: the bin from 14/15 to 1, and the bin with the confidence 0.4.
    assert result["bins"] == [
        {"confidence": 0.4, "accuracy": 1.0, "cells": 1},
        {"confidence": pytest.approx((0.95 + 0.99 + 0.97 + 1.0) / 4), "accuracy": 0.75, "cells": 4},
    ]
    assert result["expected_calibration_error"] == pytest.approx((0.6 + 4 * abs(0.9775 - 0.75)) / 5)


def test_the_tpr_counts_unseen_cells_below_nearly_all_known_cells() -> None:
    confidence = np.array([0.1, *np.linspace(0.5, 1, 39), 0.2, 0.4, 0.55, 0.9])
    known = np.arange(44) < 40
    assert tpr_at_fpr(confidence, known, 0.05) == pytest.approx(0.5)  # at 5% FPR, 2 of the 40 known cells may be below
    assert tpr_at_fpr(confidence, known, 0.0) == 0


@pytest.mark.slow
def test_figures_need_neither_torch_nor_sklearn() -> None:
    program = (
        "import sys; from spikgpt.training import evaluation, metrics; metrics.measure(['a'], ['a'])\n"
        "assert not {'torch', 'sklearn', 'scanpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

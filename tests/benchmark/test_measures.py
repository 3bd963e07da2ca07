from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from spikgpt.types import UNKNOWN
from spikgpt_benchmark.measures import labels_after_rejection, mcnemar_p, score_result
from spikgpt_benchmark.methods.result import MethodResult
from spikgpt_benchmark.task import LABEL, BenchmarkTask
from tests.benchmark.fake_methods import nearest


@pytest.fixture(scope="module")
def result(task: BenchmarkTask) -> MethodResult:
    return nearest(task.reference, task.reference.obs[LABEL].astype(str).to_numpy(), task.query)


def test_the_figures_are_those_of_scikit_learn(task: BenchmarkTask, result: MethodResult) -> None:
    figures, known = score_result(task, result).figures, task.known
    truth, labels = task.truth[known], result.labels[known]
    present = np.unique(truth)
    assert figures["accuracy"] == pytest.approx((truth == labels).mean())
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, labels, labels=present, average="macro"))
    assert figures["balanced_accuracy"] == pytest.approx(recall_score(truth, labels, labels=present, average="macro"))
    assert figures["auroc_unseen"] == pytest.approx(roc_auc_score(known, result.confidence))
    assert figures["total_seconds"] == 0.75


def test_open_set_accuracy_counts_unknown_as_right_for_unseen_cells(task: BenchmarkTask, result: MethodResult) -> None:
    assigned = np.random.default_rng(0).random(len(task.truth)) < 0.6
    figures = score_result(task, replace(result, assigned=assigned)).figures
    by_hand = [
        (label == truth) if seen and kept else (not seen and not kept)
        for label, truth, seen, kept in zip(result.labels, task.truth, task.known, assigned, strict=True)
    ]
    assert figures["open_set_accuracy"] == pytest.approx(np.mean(by_hand))
    assert figures["share_assigned"] == pytest.approx(assigned.mean())
    assert figures["rejected_unseen"] == pytest.approx(1 - assigned[~task.known].mean())
    assert figures["rejected_known"] == pytest.approx(1 - assigned[task.known].mean())
    kept = assigned & task.known
    assert figures["accuracy_of_assigned"] == pytest.approx((result.labels == task.truth)[kept].mean())


def test_figures_that_a_method_or_task_lacks_are_none(task: BenchmarkTask, result: MethodResult) -> None:
    bare = score_result(task.with_known_types(), MethodResult(result.labels[task.known]))
    missing = {name for name, figure in bare.figures.items() if figure is None}
    assert missing == {"rejected_unseen", "auroc_unseen", "calibration_error"}
    assert bare.figures["share_assigned"] == 1
    assert set(bare.errors) == {"accuracy", "macro_f1", "open_set_accuracy"}


def test_standard_errors_are_taken_over_cells(task: BenchmarkTask, result: MethodResult) -> None:
    measured = score_result(task, result)
    share, cells = measured.figures["accuracy"], int(task.known.sum())
    assert share is not None
    assert measured.errors["accuracy"] == pytest.approx((share * (1 - share) / cells) ** 0.5)
    assert 0 < measured.errors["macro_f1"] < 0.2
    assert 0 < measured.errors["auroc_unseen"] < 0.2


def test_rejected_cells_become_unknown(result: MethodResult) -> None:
    assigned = np.arange(len(result.labels)) % 2 == 0
    labels = labels_after_rejection(replace(result, assigned=assigned))
    assert set(labels[~assigned]) == {UNKNOWN}
    np.testing.assert_array_equal(labels[assigned], result.labels[assigned])
    np.testing.assert_array_equal(labels_after_rejection(replace(result, assigned=None)), result.labels)


def test_the_paired_test_counts_cells_that_one_method_alone_labels_right() -> None:
    right = np.array([True] * 9 + [False] + [True] * 50)
    other = np.array([False] * 9 + [True] + [True] * 50)
    # Only the first method is right for 9 cells, only the second for 1 cell. Binomial test: p = 2 * (1 + 10) / 2**10.
    assert mcnemar_p(right, other) == pytest.approx(22 / 1024)
    assert mcnemar_p(right, right) == 1

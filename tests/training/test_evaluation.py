from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.errors import LabelsError
from spikgpt.labels.decision import Cutoffs
from spikgpt.training.evaluation import evaluate
from spikgpt.types import InputReport


def annotated(best: list[str], confidence: list[float]) -> Annotation:
    return Annotation(
        obs_names=pd.Index([f"cell{i}" for i in range(len(best))]),
        best=np.array([["a", "b"].index(name) for name in best], dtype=np.int16),
        broad=np.zeros(len(best), dtype=np.int16),
        broad_names=("a",),
        rejected=np.array(confidence) < 0.5,
        familiarity=None,
        cutoffs=Cutoffs("a probability below 0.5000", threshold=0.5),
        confidence=np.array(confidence, dtype=np.float32),
        probabilities=np.zeros((len(best), 2), dtype=np.float32),
        empty=np.zeros(len(best), dtype=bool),
        label_names=("a", "b"),
        smoothed=True,
        reference_origin=None,
        reference_name="hand-made",
        report=InputReport("X", "counts", "reference", 10, 10),
    )


def cells(labels: list[Any]) -> AnnData:
    return AnnData(
        np.ones((len(labels), 1), dtype=np.float32),
        obs=pd.DataFrame({"type": labels}, index=[f"c{i}" for i in range(len(labels))]),
    )


def test_figures_by_hand() -> None:
    annotation = annotated(["a", "a", "b", "b", "a", "b"], [0.9, 0.4, 0.8, 0.9, 0.3, 0.9])
    evaluation = evaluate(annotation, cells(["a", "a", "a", "b", "z", None]), "type")
    assert evaluation.metrics.cells == 4
    assert evaluation.metrics.accuracy == 0.75
    assert evaluation.accuracy_after_rejection == 0.5
    assert evaluation.known_unknown_rate == 0.25
    assert evaluation.unseen_unknown_rate == 1
    assert evaluation.unknown_rate == pytest.approx(2 / 5)
    assert evaluation.auroc_unknown == 1
    assert evaluation.unseen_labels == {"z": 1}
    assert evaluation.unlabelled_cells == 1


def test_without_unseen_types_there_is_no_auroc() -> None:
    evaluation = evaluate(annotated(["a", "b"], [0.9, 0.9]), cells(["a", "b"]), "type")
    assert evaluation.auroc_unknown is None
    assert evaluation.unseen_unknown_rate is None
    assert {
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "unknown_rate",
        "auroc_unknown",
        "per_label",
    } <= (evaluation.to_dict().keys())


def test_labels_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(LabelsError, match=r"No label of obs\['type'\] \(A, B, ...\) is in the reference \(a, b, ...\)"):
        evaluate(annotated(["a", "b"], [0.9, 0.9]), cells(["A", "B"]), "type")


def test_a_missing_column_lists_those_that_exist() -> None:
    with pytest.raises(LabelsError, match=r"obs has no column 'types'; it has .*type.*Did you mean 'type'"):
        evaluate(annotated(["a", "b"], [0.9, 0.9]), cells(["a", "b"]), "types")

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikgpt_benchmark.methods.result import MethodResult, MethodSettings


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = MethodSettings(3, "label", "batch", 2, {"recipe": "paper"}, "log", 2.0)
    settings.write(tmp_path)
    assert MethodSettings.read(tmp_path) == settings


def test_a_result_is_read_as_it_was_written_and_is_no_pickle(tmp_path: Path) -> None:
    labels = np.array(["alpha", "β cell"], dtype=object)
    result = MethodResult(labels, None, np.array([0.5, 0.25]), train_seconds=1.5, versions={"numpy": "2"})
    result.write(tmp_path)
    read = MethodResult.read(tmp_path)
    assert read.labels.tolist() == ["alpha", "β cell"]
    assert read.labels.dtype.kind == "U"
    assert read.confidence is not None
    assert read.confidence.tolist() == [0.5, 0.25]
    assert (read.assigned, read.probabilities, read.classes) == (None, None, None)
    assert (read.train_seconds, read.predict_seconds, read.versions) == (1.5, 0.0, {"numpy": "2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.npz"]


def test_the_fault_of_a_result_is_described() -> None:
    labels = np.array(["a", "b"])
    assert MethodResult(labels).fault(2) is None
    assert "labels has the shape (2,), not (3,)" in str(MethodResult(labels).fault(3))
    assert "confidence is not finite" in str(MethodResult(labels, confidence=np.array([0.5, np.nan])).fault(2))
    assert "differ in shape" in str(MethodResult(labels, probabilities=np.ones((2, 3)), classes=labels).fault(2))

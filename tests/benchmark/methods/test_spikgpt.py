from __future__ import annotations

import numpy as np

from spikgpt_benchmark.methods.result import MethodSettings
from spikgpt_benchmark.methods.spikgpt import fit
from spikgpt_benchmark.task import LABEL, BenchmarkTask


def test_the_paper_recipe_rejects_below_its_confidence(task: BenchmarkTask) -> None:
    """Check the recipe of the paper, which rejects cells whose largest probability is below 0.95."""
    result = fit(task.reference, MethodSettings(0, LABEL, options={"recipe": "paper"}))(task.query)
    assert result.fault(task.query.n_obs) is None
    assert result.probabilities is not None
    assert result.classes is not None
    largest = result.probabilities.max(axis=1)
    np.testing.assert_array_equal(result.classes[result.probabilities.argmax(axis=1)], result.labels)
    np.testing.assert_array_equal(result.assigned, largest >= 0.95)
    np.testing.assert_array_equal(result.confidence, largest)

from __future__ import annotations

import numpy as np

from spikgpt.benchmark.methods.answer import Settings
from spikgpt.benchmark.methods.spikgpt import run
from spikgpt.benchmark.task import LABEL, Task


def test_the_papers_recipe_rejects_below_its_confidence(task: Task) -> None:
    """The default recipe runs in a test of the command."""
    answer = run(task.reference, task.query, Settings(0, LABEL, options={"recipe": "paper"}))
    assert answer.fault(task.query.n_obs) is None
    assert answer.probabilities is not None
    assert answer.classes is not None
    largest = answer.probabilities.max(axis=1)
    np.testing.assert_array_equal(answer.classes[answer.probabilities.argmax(axis=1)], answer.labels)
    np.testing.assert_array_equal(answer.assigned, largest >= 0.95)
    np.testing.assert_array_equal(answer.confidence, largest)
    assert answer.train_seconds > 0

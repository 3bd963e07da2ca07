from __future__ import annotations

import numpy as np
import pytest

from spikgpt.benchmark.methods.answer import Settings
from spikgpt.benchmark.methods.spikgpt import run
from spikgpt.benchmark.task import LABEL, Task


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_both_recipes_answer_for_every_cell(task: Task, recipe: str) -> None:
    answer = run(task.reference, task.query, Settings(0, LABEL, options={"recipe": recipe}))
    assert answer.fault(task.query.n_obs) is None
    assert answer.probabilities is not None
    assert answer.assigned is not None
    assert answer.classes is not None
    assert (answer.classes[answer.probabilities.argmax(axis=1)] == answer.labels).mean() > 0.99
    assert answer.train_seconds > 0
    if recipe == "default":
        assert (answer.labels == task.truth)[task.known].mean() > 0.9
    else:
        below = answer.probabilities.max(axis=1) < 0.95
        np.testing.assert_array_equal(answer.assigned, ~below)

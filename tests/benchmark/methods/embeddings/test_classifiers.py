from __future__ import annotations

import numpy as np
import pytest

from spikgpt_benchmark.methods.embeddings.classifiers import CLASSIFIERS


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_probabilities_of_labels_in_order(name: str) -> None:
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 20)
    labels = np.array(["b", "c", "a"])[truth]
    centres = 3 * np.eye(3, 8)
    vectors = centres[truth] + random.normal(0, 0.3, (60, 8))
    probabilities = CLASSIFIERS[name](vectors, labels, 0)(centres)
    assert probabilities.shape == (3, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    # The columns are in alphabetical order: a, b, c.
    assert probabilities.argmax(axis=1).tolist() == [1, 2, 0]

from __future__ import annotations

import numpy as np

from spikgpt_benchmark.methods.packages.singler import prune


def test_outliers_of_each_label_are_pruned() -> None:
    classes = np.array(["a", "b", "c"])
    labels = np.array(["a"] * 7 + ["b"] * 3)
    # The score of the label minus the median of the three scores, which is 0.
    excess = np.array([0.30, 0.31, 0.29, 0.32, 0.28, 0.25, 0.27, 0.05, 0.06, 0.07])
    scores = np.zeros((10, 3))
    scores[:, 2] = -1
    scores[np.arange(10), np.searchsorted(classes, labels)] = excess
    assert prune(scores, labels, classes).all()
    # The median of a is 0.29, its median absolute deviation 0.02. The limit is 0.29 - 3 * 1.4826 * 0.02 = 0.201.
    scores[5, 0] = 0.202
    assert prune(scores, labels, classes).all()
    scores[5, 0] = 0.200
    assert np.flatnonzero(~prune(scores, labels, classes)).tolist() == [5]

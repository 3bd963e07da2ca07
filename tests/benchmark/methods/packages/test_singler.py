from __future__ import annotations

import numpy as np

from spikgpt_benchmark.methods.packages.singler import prune


def test_outliers_of_each_label_are_pruned() -> None:
    classes = np.array(["a", "b", "c"])
    labels = np.array(["a"] * 7 + ["b"] * 3)
    # A cell scores ``excess`` for its label, and 0 and -1 for the other labels. The median of the three scores is 0.
    excess = np.array([0.30, 0.31, 0.29, 0.32, 0.28, 0.25, 0.27, 0.05, 0.06, 0.07])
    scores = np.zeros((10, 3))
    scores[:, 2] = -1
    scores[np.arange(10), np.searchsorted(classes, labels)] = excess
    assert prune(scores, labels, classes).all()
    # In label a, the median is 0.29 and the median absolute deviation (MAD) is 0.02.
    # The lower limit is median - 3 * 1.4826 * MAD = 0.201.
    scores[5, 0] = 0.202
    assert prune(scores, labels, classes).all()
    scores[5, 0] = 0.200
    assert np.flatnonzero(~prune(scores, labels, classes)).tolist() == [5]

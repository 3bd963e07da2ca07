from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr, spearmanr

from spikgpt_benchmark.methods.published.scmap_cluster import compare, medians


def test_a_type_is_the_median_of_its_cells() -> None:
    values = np.array([[1.0, 9.0], [2.0, 8.0], [9.0, 7.0], [0.0, 4.0], [0.0, 6.0]])
    names, centres = medians(values, np.array(["b", "b", "b", "a", "a"]))
    assert names.tolist() == ["a", "b"]
    np.testing.assert_array_equal(centres, [[0, 5], [2, 8]])


def test_the_vote_is_that_of_three_similarities() -> None:
    random = np.random.default_rng(1)
    centres = random.gamma(1.0, 1.0, (3, 8))
    values = centres[random.integers(0, 3, 250)] * random.gamma(0.5, 2.0, (250, 8))
    votes = compare(values, centres)
    kinds = set()
    for cell, row in enumerate(values):
        expected = [
            [1 - cosine(row, centre) for centre in centres],
            [pearsonr(row, centre).statistic for centre in centres],
            [spearmanr(row, centre).statistic for centre in centres],
        ]
        chosen = [int(np.argmax(similarities)) for similarities in expected]
        most = max(chosen, key=chosen.count)
        if chosen.count(most) == 1:
            kinds.add("none agree")
            assert not votes.assigned[cell]
            assert votes.best[cell] == chosen[0]
            continue
        score = max(max(similarities) for similarities, best in zip(expected, chosen, strict=True) if best == most)
        kinds.add(f"{chosen.count(most)} agree, {'enough' if score >= 0.7 else 'too little'}")
        assert votes.best[cell] == most
        assert votes.similarity[cell] == pytest.approx(score)
        assert votes.assigned[cell] == (score >= 0.7)
    assert {"none agree", "2 agree, enough", "2 agree, too little", "3 agree, enough"} <= kinds


def test_a_cell_without_values_is_unassigned() -> None:
    votes = compare(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    assert votes.assigned.tolist() == [False, True]
    assert votes.similarity.tolist() == [0.0, pytest.approx(1.0)]

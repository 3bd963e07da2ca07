"""Rankings of genes, and the areas under their deletion and insertion curves."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.reference.files import Reference
from spikgpt_benchmark.studies import attributions
from spikgpt_benchmark.studies.attributions import LabelCells, curve_areas, ranked_areas
from spikgpt_benchmark.studies.explanations import ExplainedQuery


@pytest.fixture(scope="module")
def beta(small: Reference, query: AnnData) -> LabelCells:
    cells = ExplainedQuery(SpikGPT(small), query).cells_of("beta", 5)
    assert cells is not None
    return cells


def test_curves_lie_between_the_probabilities_of_their_ends(beta: LabelCells) -> None:
    size = beta.logs.shape[1]
    whole, nothing = beta.probabilities(beta.scaled), beta.probabilities(np.zeros((1, size)))
    for name, _, deletion, insertion in ranked_areas(beta, variants=True):
        assert ((deletion > 0) & (deletion < 1)).all(), name
        assert ((insertion > 0) & (insertion <= 1)).all(), name
    assert whole.mean() > 0.9 > nothing[0]


def test_good_rankings_have_small_deletion_and_large_insertion_areas(beta: LabelCells) -> None:
    areas = {
        name: curve_areas(beta, attributions.RANKINGS[name](beta), np.zeros(beta.logs.shape[1]))
        for name in ("attribution", "random", "shuffled weights")
    }
    for rival in ("random", "shuffled weights"):
        assert areas["attribution"][0].mean() < areas[rival][0].mean() / 2
        assert areas["attribution"][1].mean() > areas[rival][1].mean()


def test_sampled_shapley_values_add_up(beta: LabelCells) -> None:
    values = attributions.shapley_sampling(beta).sum(axis=1)
    base = beta.attributor.front.profiles[beta.other_labels].mean(axis=0)
    ends = [beta.attributor.log_odds(scaled, beta.label) for scaled in (beta.scaled, base[None])]
    np.testing.assert_allclose(values, ends[0] - ends[1], atol=1e-8)


def test_occlusion_is_that_of_the_engine(beta: LabelCells) -> None:
    gene = int(np.argmax(attributions.occlusion(beta)[0]))
    occluded = beta.scaled[:1].copy()
    occluded[:, gene] = 0
    before, after = (beta.attributor.log_odds(scaled, beta.label)[0] for scaled in (beta.scaled[:1], occluded))
    assert attributions.occlusion(beta)[0, gene] == pytest.approx(before - after)
    assert before > after

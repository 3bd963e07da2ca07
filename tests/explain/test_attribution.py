"""Attributions of genes to the log-odds of a label."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.explain.attribution import GeneAttributor
from spikgpt.explain.query import FittedQuery
from spikgpt.reference.files import Reference
from tests.conftest import labelled


@pytest.fixture(scope="module")
def attributor(fitted: FittedQuery) -> GeneAttributor:
    return GeneAttributor.from_query(fitted)


def test_log_odds_are_those_of_the_probabilities(fitted: FittedQuery, attributor: GeneAttributor) -> None:
    assert fitted.logs is not None
    log_odds = attributor.log_odds(attributor.front.scaled(fitted.logs[:30]), 1)
    output = fitted.engine.run(fitted.cells.part(slice(0, 30)), fitted.model.scale)
    powers = output.probabilities.astype(np.float64) ** fitted.reference.thresholds.temperature
    share = powers[:, 1] / powers.sum(axis=1)
    certain = (share > 1e-4) & (share < 1 - 1e-4)
    assert certain.any()
    np.testing.assert_allclose(log_odds[certain], np.log(share / (1 - share))[certain], atol=0.01)


def test_each_cell_has_its_own_attributions(fitted: FittedQuery, attributor: GeneAttributor) -> None:
    assert fitted.logs is not None
    scaled = attributor.front.scaled(fitted.logs[:6])
    others = attributor.nearest_labels(scaled, 0)
    assert 0 not in others
    whole = attributor.attribute(scaled, 0, others=others)
    turned = attributor.attribute(scaled[::-1], 0, others=others)[::-1]
    np.testing.assert_allclose(whole, turned, atol=1e-9)
    np.testing.assert_allclose(attributor.attribute(scaled[2:3], 0, others=others), whole[2:3], atol=1e-9)


def test_only_allowed_labels_are_compared(small: Reference, query: AnnData) -> None:
    found = labelled(small, query, labels=["alpha", "beta", "delta"]).query
    assert isinstance(found, FittedQuery)
    attributor, names = GeneAttributor.from_query(found), small.labels.names
    assert {names[label] for label in attributor.allowed} == {"alpha", "beta", "delta"}
    assert found.logs is not None
    scaled = attributor.front.scaled(found.logs[:5])
    beta = names.index("beta")
    assert {names[label] for label in attributor.nearest_labels(scaled, beta)} == {"alpha", "delta"}
    gradient = attributor.gradient(scaled, beta)
    assert gradient.shape == scaled.shape
    assert np.isfinite(gradient).all()

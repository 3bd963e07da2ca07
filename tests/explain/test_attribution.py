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
    other_labels = attributor.nearest_labels(scaled, 0)
    assert 0 not in other_labels
    whole = attributor.attribute(scaled, 0, baselines=other_labels).values
    turned = attributor.attribute(scaled[::-1], 0, baselines=other_labels).values[::-1]
    np.testing.assert_allclose(whole, turned, atol=1e-9)
    np.testing.assert_allclose(
        attributor.attribute(scaled[2:3], 0, baselines=other_labels).values, whole[2:3], atol=1e-9
    )


@pytest.mark.parametrize("name", ["fitted", "panel"])
def test_attributions_add_up_to_the_difference_of_log_odds(name: str, request: pytest.FixtureRequest) -> None:
    query: FittedQuery = request.getfixturevalue(name)
    attributor = GeneAttributor.from_query(query)
    assert query.logs is not None
    scaled = attributor.front.scaled(query.logs[:40])
    beta = query.reference.labels.names.index("beta")
    cells = scaled[attributor.best(scaled) == beta]
    assert len(cells) >= 5
    attributions = attributor.attribute(cells, beta)
    np.testing.assert_allclose(attributions.log_odds, attributor.log_odds(cells, beta))
    np.testing.assert_allclose(attributions.values.sum(axis=1), attributions.log_odds - attributions.baseline)
    assert (attributions.log_odds > attributions.baseline + 5).all()


def test_more_integration_steps_change_attributions_little(fitted: FittedQuery, attributor: GeneAttributor) -> None:
    assert fitted.logs is not None
    cells = attributor.front.scaled(fitted.logs[:5])
    few, many = (attributor.attribute(cells, 0, steps=steps).values.ravel() for steps in (4, 32))
    assert np.corrcoef(few, many)[0, 1] > 0.95


def test_deletion_of_the_strongest_genes_lowers_the_log_odds_most(
    fitted: FittedQuery, attributor: GeneAttributor
) -> None:
    """Compare the attributions with the exact loss of log-odds when genes are set to 0."""
    assert fitted.logs is not None
    scaled = attributor.front.scaled(fitted.logs[:40])
    beta = fitted.reference.labels.names.index("beta")
    cells = scaled[attributor.best(scaled) == beta]
    values = attributor.attribute(cells, beta).values
    order = np.argsort(-values, axis=1)
    drops = []
    for genes in (order[:, :20], order[:, 200:220], order[:, -20:]):
        occluded = cells.copy()
        np.put_along_axis(occluded, genes, 0.0, axis=1)
        drops.append((attributor.log_odds(cells, beta) - attributor.log_odds(occluded, beta)).mean())
    assert drops[0] > 5 * abs(drops[1])
    assert drops[0] > drops[2]


def test_only_allowed_labels_are_compared(small: Reference, query: AnnData) -> None:
    fitted = labelled(small, query, labels=["alpha", "beta", "delta"]).query
    assert isinstance(fitted, FittedQuery)
    attributor, names = GeneAttributor.from_query(fitted), small.labels.names
    assert {names[label] for label in attributor.allowed} == {"alpha", "beta", "delta"}
    assert fitted.logs is not None
    scaled = attributor.front.scaled(fitted.logs[:5])
    beta = names.index("beta")
    assert {names[label] for label in attributor.nearest_labels(scaled, beta)} == {"alpha", "delta"}
    gradient = attributor.gradient(scaled, beta)
    assert gradient.shape == scaled.shape
    assert np.isfinite(gradient).all()

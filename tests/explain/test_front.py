"""The gene front gives the vectors of the engine, and gradients that equal finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.errors import ConfigError
from spikgpt.explain.front import GeneFront
from spikgpt.explain.query import FittedQuery
from spikgpt.reference.files import Reference
from tests.conftest import labelled


@pytest.mark.parametrize("name", ["fitted", "panel"])
def test_vectors_are_those_of_the_engine(name: str, request: pytest.FixtureRequest) -> None:
    query: FittedQuery = request.getfixturevalue(name)
    front, cells = GeneFront.from_query(query), query.cells.part(slice(0, 40))
    assert (front.imputer is not None) == (name == "panel")
    assert query.logs is not None
    vectors = front.vectors(front.scaled(query.logs[:40]))
    np.testing.assert_allclose(vectors, query.engine.run(cells, query.model.scale).vectors, atol=1e-5)


@pytest.mark.parametrize("name", ["fitted", "panel"])
def test_gradient_equals_finite_differences(name: str, request: pytest.FixtureRequest) -> None:
    query: FittedQuery = request.getfixturevalue(name)
    front = GeneFront.from_query(query)
    assert query.logs is not None
    scaled = front.scaled(query.logs[:3])
    random = np.random.default_rng(0)
    weights, direction = random.standard_normal((3, query.engine.embedding.dim)), random.standard_normal(scaled.shape)
    _, pull = front.forward(scaled)
    step = 1e-5
    ends = [(front.vectors(scaled + sign * step * direction) * weights).sum(axis=1) for sign in (1, -1)]
    np.testing.assert_allclose((pull(weights) * direction).sum(axis=1), (ends[0] - ends[1]) / (2 * step), rtol=1e-5)


def test_an_embedding_without_genes_is_refused(fitted: FittedQuery) -> None:
    class EngineWithoutGenes:
        class embedding:
            kind = "obsm:X_scVI"

    query = replace(fitted, engine=cast("Any", EngineWithoutGenes()))
    with pytest.raises(ConfigError, match=r"reads the embedding obsm:X_scVI; expected a reference that reads genes"):
        GeneFront.from_query(query)


def test_profiles_are_scaled_like_the_reference(fitted: FittedQuery, small: Reference, query: AnnData) -> None:
    front = GeneFront.from_query(fitted)
    beta, gene = small.labels.names.index("beta"), fitted.genes.index("INS")
    assert front.profiles[:, gene].argmax() == beta
    assert front.profiles.shape == (len(small.labels.names), len(fitted.genes))
    # The query has the reference's cell types, so its scaled label means are near the reference's profiles.
    assert labelled(small, query).labels.tolist().count("beta") > 20
    assert fitted.logs is not None
    means = front.scaled(fitted.logs)[fitted.model.scores.probabilities.argmax(axis=1) == beta].mean(axis=0)
    assert np.corrcoef(means, front.profiles[beta])[0, 1] > 0.8

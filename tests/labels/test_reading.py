"""Cells are read the same at once and a few at a time, with and without familiarity."""

from __future__ import annotations

import dataclasses

import numpy as np
from anndata import AnnData

from spikgpt.labels.familiarity import Traits
from spikgpt.labels.neighbours import Neighbourhood
from spikgpt.labels.reading import Reader
from spikgpt.pipeline import read
from spikgpt.training.reference import Reference


def test_a_few_at_a_time_is_the_same(small: Reference, query: AnnData) -> None:
    embedding = small.embedder.embed(query, classify=small.probabilities)
    probabilities, energies = small.classified(embedding.vectors)
    whole = read(small, embedding)
    traits = Traits(embedding.vectors, energies, embedding.logs)
    among = Neighbourhood(embedding.shown, embedding.points[embedding.shown], probabilities[embedding.shown])
    reader = Reader.of(among, small.familiarity, traits.part(embedding.shown), embedding.profiles, together=True)
    parts = [
        reader.read(probabilities[cells], embedding.points[cells], cells, traits.part(cells))
        for cells in np.array_split(np.arange(query.n_obs), 7)
    ]
    joined = np.concatenate([part.probabilities for part in parts])
    np.testing.assert_allclose(joined, whole.probabilities, atol=1e-12)
    scores = np.concatenate([part.scores for part in parts if part.scores is not None])
    np.testing.assert_allclose(scores, whole.scores, atol=1e-9)  # type: ignore[arg-type]
    assert whole.together
    assert all(part.together for part in parts)


def test_without_familiarity_the_probabilities_are_the_same(small: Reference, query: AnnData) -> None:
    embedding = small.embedder.embed(query, classify=small.probabilities)
    without = read(dataclasses.replace(small, familiarity=None), embedding)
    assert without.scores is None
    alone, shown = small.probabilities(embedding.vectors), embedding.shown
    among = Neighbourhood(shown, embedding.points[shown], alone[shown])
    expected = among.smooth(alone, among.nearest(embedding.points, np.arange(query.n_obs)))
    np.testing.assert_array_equal(without.probabilities, expected)

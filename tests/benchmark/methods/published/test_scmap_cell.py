from __future__ import annotations

import numpy as np

from spikgpt_benchmark.methods.published.scmap import unit
from spikgpt_benchmark.methods.published.scmap_cell import ProductQuantiser, chunks, vote


def test_chunks_have_ten_genes() -> None:
    assert [chunk.shape[1] for chunk in chunks(np.zeros((2, 500)))] == [10] * 50
    assert [chunk.shape[1] for chunk in chunks(np.zeros((2, 25)))] == [13, 12]
    assert [chunk.shape[1] for chunk in chunks(np.zeros((2, 4)))] == [4]


def test_similarities_are_those_with_the_nearest_centres() -> None:
    random = np.random.default_rng(0)
    known, queried = (unit(random.gamma(1.0, 1.0, (size, 20))) for size in (36, 4))
    quantiser = ProductQuantiser.fit(known)
    assert [len(centres) for centres in quantiser.centres] == [6, 6]
    similarities = quantiser.similarities(queried)
    for cell in range(4):
        for other in range(36):
            total = 0.0
            for chunk, centres in enumerate(quantiser.centres):
                genes = slice(10 * chunk, 10 * chunk + 10)
                nearest = ((centres - known[other, genes]) ** 2).sum(axis=1).argmin()
                total += float(queried[cell, genes] @ centres[nearest])
            np.testing.assert_allclose(similarities[cell, other], total)


def test_cells_of_one_type_are_their_own_centres() -> None:
    kinds = np.eye(10)[:3]
    quantiser = ProductQuantiser.fit(np.repeat(kinds, 12, axis=0))
    np.testing.assert_allclose(quantiser.similarities(kinds), np.repeat(np.eye(3), 12, axis=1), atol=1e-12)


def test_three_nearest_cells_must_agree_with_similarity_above_half() -> None:
    labels = np.array(["a", "a", "a", "b", "b"])
    similarities = np.array(
        [
            [0.9, 0.8, 0.7, 0.6, 0.5],  # nearest cells: a, a, a
            [0.9, 0.8, 0.1, 0.85, 0.2],  # nearest cells: a, b, a
            [0.1, 0.2, 0.3, 0.9, 0.8],  # nearest cells: b, b, a
            [0.50, 0.4, 0.3, 0.2, 0.1],  # nearest cells: a, a, a; similarity not above 0.5
            [np.nan] * 5,
        ]
    )
    best, assigned, highest = vote(similarities, labels)
    assert best[:4].tolist() == ["a", "a", "b", "a"]
    assert assigned.tolist() == [True, False, False, False, False]
    np.testing.assert_array_equal(highest, [0.9, 0.9, 0.9, 0.5, -1.0])

"""Scores of the cells in the sample, and of further cells that an explanation reads."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from spikgpt.explain.query import FittedQuery
from spikgpt.explain.scored import ScoredCells
from spikgpt.reference.files import Reference
from tests.conftest import labelled


def test_the_sample_has_the_labels_of_the_annotation(small: Reference, query: AnnData) -> None:
    annotation = labelled(small, query)
    assert isinstance(annotation.query, FittedQuery)
    sample = ScoredCells.from_sample(annotation.query)
    np.testing.assert_array_equal(sample.best, annotation.best[sample.rows])
    np.testing.assert_array_equal(sample.unknown, annotation.rejected[sample.rows])
    assert sample.unknown.any()


def test_cells_that_are_read_equal_those_of_the_sample(fitted: FittedQuery) -> None:
    sample, chosen = ScoredCells.from_sample(fitted), np.array([3, 40, 41])
    expected = sample.part(chosen)
    assert len(expected) == 3
    batches = expected.scores.batches
    read_cells = ScoredCells.from_cells(fitted, fitted.cells.part(chosen), sample.rows[chosen], batches)
    np.testing.assert_allclose(read_cells.logs.toarray(), expected.logs.toarray(), atol=1e-5)
    np.testing.assert_allclose(read_cells.output.vectors, expected.output.vectors, atol=1e-4)
    np.testing.assert_array_equal(read_cells.neighbours, expected.neighbours)
    np.testing.assert_array_equal(read_cells.best, expected.best)
    np.testing.assert_array_equal(read_cells.unknown, expected.unknown)

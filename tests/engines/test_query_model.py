"""A saved query model is complete, and labels cells the same in any chunk."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.cell_cache import CellCache
from spikgpt.cells.obs import batches_of
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.query_model import QueryModel
from spikgpt.options import AnnotateOptions, options_of
from spikgpt.pipeline import cache_cells, fit_query, label_cells
from spikgpt.reference.files import Reference
from spikgpt.scoring.compatibility import Comparison
from tests.conftest import labelled, usual_engine


def fitted(reference: Reference, adata: AnnData, **options: Any) -> tuple[QueryModel, AlignedCells]:
    """Return the model that is fitted to a query, and the aligned cells of the query."""
    engine, chosen = usual_engine(reference), options_of(AnnotateOptions, options)
    codes = batches_of(adata, "auto").codes
    with CellCache() as cache:
        query = engine.embedding.read(adata, layer=None, scaling="auto")
        cache_cells(query, cache, progress=False)
        model = fit_query(reference, engine, cache, query.report, chosen, codes)
        return model, joined([cells for _, cells in cache.chunks()])


def assert_same(actual: Any, expected: Any) -> None:
    """Assert that values are equal, with tuples and dataclasses compared item by item."""
    if isinstance(expected, sparse.csr_matrix):
        assert (actual != expected).nnz == 0
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype
    elif isinstance(expected, tuple):
        for item, other in zip(actual, expected, strict=True):
            assert_same(item, other)
    elif dataclasses.is_dataclass(expected):
        assert type(actual) is type(expected)
        for field in dataclasses.fields(expected):
            assert_same(getattr(actual, field.name), getattr(expected, field.name))
    else:
        assert actual == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reference_cutoff": True, "smoothing": False},
        {"threshold": 0.9, "scaling": "reference"},
        {"unknown_rate": 0},
    ],
    ids=str,
)
def test_a_saved_model_is_complete(small: Reference, few: AnnData, foreign: AnnData, options: dict[str, Any]) -> None:
    for adata in (few, foreign, few[:9].copy()):
        model, _ = fitted(small, adata, **options)
        assert model.averager is not None
        assert model.compatibility is not None
        assert model.compatibility.usable == (adata is not foreign)
        assert model.comparison is not None
        assert (model.comparison.own_markers is None) == (adata.n_obs == 9)
        assert_same(QueryModel.load(model.save(), small.familiarity), model)


def test_a_saved_model_labels_any_chunk_the_same(small: Reference, query: AnnData) -> None:
    engine, rows = torch_engine(small), np.arange(query.n_obs)
    batches = batches_of(query, "auto").codes
    assert set(batches.tolist()) == {0, 1}
    expected = labelled(small, query, engine=engine)
    model, cells = fitted(small, query)
    loaded = QueryModel.load(model.save(), small.familiarity)
    assert len(model.save()) < 10_000_000
    # Shift the row numbers of the sample, so that all cells count as outside of the sample and are scored anew.
    elsewhere = dataclasses.replace(
        loaded, smoother=dataclasses.replace(loaded.smoother, rows=loaded.smoother.rows + query.n_obs)
    )
    whole = label_cells(small, engine, elsewhere, cells, rows, batches)
    for part in np.array_split(np.random.default_rng(0).permutation(query.n_obs), 7):
        labels = label_cells(small, engine, loaded, cells.part(part), rows[part], batches[part])
        np.testing.assert_array_equal(labels.probabilities, expected.probabilities[part])
        np.testing.assert_array_equal(labels.rejected, expected.rejected[part])
        np.testing.assert_array_equal(labels.broad, expected.broad[part])
        again = label_cells(small, engine, elsewhere, cells.part(part), rows[part], batches[part])
        np.testing.assert_allclose(again.probabilities, whole.probabilities[part], atol=1e-6)
        np.testing.assert_array_equal(again.rejected, whole.rejected[part])


def two_batches(adata: AnnData) -> tuple[AnnData, Any]:
    """Return the cells, followed by a copy with a batch effect, and the batch of each cell, 0 or 1."""
    random = np.random.default_rng(0)
    factors = random.lognormal(0, 0.8, adata.n_vars)
    counts = random.poisson(adata.X.toarray() * factors).astype(np.float32)
    values = sparse.vstack([sparse.csr_matrix(adata.X), sparse.csr_matrix(counts)], format="csr")
    obs = pd.concat([adata.obs[["cell_type"]]] * 2).reset_index(drop=True).rename(str)
    return AnnData(values, obs=obs, var=adata.var[[]].copy()), np.repeat([0, 1], adata.n_obs)


def test_batches_without_a_column_are_inferred(small: Reference, query: AnnData) -> None:
    both, truth = two_batches(query)
    model, cells = fitted(small, both)
    assert model.inferred
    batches = model.scores.batches
    # The donors differ too, so more than two batches may be inferred.
    share = np.array([truth[batches == batch].mean() for batch in range(batches.max() + 1)])
    assert ((share[batches] > 0.5) == truth).mean() > 0.9
    assert any(f"{len(share)} batches were inferred" in note for note in model.report.notes)
    declined, _ = fitted(small, both, batch_key=None)
    assert not declined.inferred
    assert not declined.scores.batches.any()
    # A cell outside the sample gets the batch of its neighbours.
    rows, engine = np.arange(both.n_obs), usual_engine(small)
    part = np.flatnonzero(rows % 7 == 0)
    output, logs = engine.run(cells.part(part), model.scale), engine.embedding.logs(cells.part(part))
    scored = model._scores(output, logs, rows[part], np.zeros(len(part), dtype=np.int64))
    assert ((share[scored.batches] > 0.5) == (share[batches[part]] > 0.5)).mean() > 0.9
    assert_same(QueryModel.load(model.save(), small.familiarity), model)


@pytest.mark.slow
def test_inferred_batches_keep_the_labels_of_a_far_batch(small: Reference, query: AnnData) -> None:
    both, _ = two_batches(query)
    inferred, pooled = labelled(small, both), labelled(small, both, batch_key=None)
    assert inferred.uns()["spikgpt"]["batch_key"] == "inferred"
    truth = both.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, small.labels.names)
    assert (inferred.labels == truth)[known].mean() > 0.9
    assert (inferred.labels == truth)[known].mean() >= (pooled.labels == truth)[known].mean()
    np.testing.assert_array_equal(labelled(small, both, batch_size=50).labels, inferred.labels)


def test_cells_outside_the_sample_get_the_same_scores(small: Reference, query: AnnData) -> None:
    model, cells = fitted(small, query)
    rows, engine = np.arange(query.n_obs), usual_engine(small)
    # Every seventh cell is scored again. The row numbers ensure that no cell is its own neighbour.
    part = np.flatnonzero(rows % 7 == 0)
    output = engine.run(cells.part(part), model.scale)
    logs = engine.embedding.logs(cells.part(part))
    scores = model._scores(output, logs, rows[part], model.scores.batches[part])
    clustered = dataclasses.replace(model, scores=model.with_clusters(query.n_obs).scores)
    assert clustered._scores(output, logs, rows[part], model.scores.batches[part]).clusters is not None
    for name, expected in vars(model.scores.part(part)).items():
        if expected is not None:
            np.testing.assert_allclose(getattr(scores, name), expected, atol=1e-5)


def test_a_sample_without_cells_and_a_chunk_of_empty_cells(small: Reference, few: AnnData) -> None:
    model, cells = fitted(small, few)
    engine = usual_engine(small)
    nothing = np.arange(0)
    empty = QueryModel.fit(
        engine, small.familiarity, cells.part(nothing), nothing, report=model.report, options=AnnotateOptions()
    ).with_rule(small.thresholds, small.labels.names, AnnotateOptions())
    assert (empty.compatibility, empty.comparison, empty.scores.probabilities.shape) == (
        None,
        Comparison(0, None, None, None),
        (0, 6),
    )
    assert_same(QueryModel.load(empty.save(), small.familiarity), empty)
    blank = dataclasses.replace(cells.part(np.arange(3)), totals=np.zeros(3), values=cells.values[:3] * 0)
    assert blank.empty.all()
    for each in (empty, model):
        labels = label_cells(small, engine, each, blank, np.arange(3), np.zeros(3, dtype=np.int64))
        assert labels.rejected.all()
        assert not labels.probabilities.any()

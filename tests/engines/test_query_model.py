"""The model of a query is saved whole, and labels any chunk of its cells the same."""

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
    """Return the model of a query, and its cells."""
    engine, chosen = usual_engine(reference), options_of(AnnotateOptions, options)
    codes = batches_of(adata, "auto").codes
    with CellCache() as aside:
        query = engine.embedding.read(adata, layer=None, scaling="auto")
        cache_cells(query, aside, progress=False)
        model = fit_query(reference, engine, aside, query.report, chosen, codes)
        return model, joined([cells for _, cells in aside.chunks()])


def assert_same(found: Any, expected: Any) -> None:
    """Compare values, arrays and what holds some, and all of it."""
    if isinstance(expected, sparse.csr_matrix):
        assert (found != expected).nnz == 0
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    elif isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif dataclasses.is_dataclass(expected):
        assert type(found) is type(expected)
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    else:
        assert found == expected


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
def test_all_of_a_model_is_saved(small: Reference, few: AnnData, foreign: AnnData, options: dict[str, Any]) -> None:
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
    sent = QueryModel.load(model.save(), small.familiarity)
    assert len(model.save()) < 10_000_000
    # As if the sample had been another part of the query: nothing is looked up.
    elsewhere = dataclasses.replace(
        sent, smoother=dataclasses.replace(sent.smoother, rows=sent.smoother.rows + query.n_obs)
    )
    whole = label_cells(small, engine, elsewhere, cells, rows, batches)
    for part in np.array_split(np.random.default_rng(0).permutation(query.n_obs), 7):
        found = label_cells(small, engine, sent, cells.part(part), rows[part], batches[part])
        np.testing.assert_array_equal(found.probabilities, expected.probabilities[part])
        np.testing.assert_array_equal(found.rejected, expected.rejected[part])
        np.testing.assert_array_equal(found.broad, expected.broad[part])
        again = label_cells(small, engine, elsewhere, cells.part(part), rows[part], batches[part])
        np.testing.assert_allclose(again.probabilities, whole.probabilities[part], atol=1e-6)
        np.testing.assert_array_equal(again.rejected, whole.rejected[part])


def two_batches(adata: AnnData) -> tuple[AnnData, Any]:
    """Return cells twice, the second time as another batch would show them, and the batch of each."""
    random = np.random.default_rng(0)
    factors = random.lognormal(0, 0.8, adata.n_vars)
    counts = random.poisson(adata.X.toarray() * factors).astype(np.float32)
    values = sparse.vstack([sparse.csr_matrix(adata.X), sparse.csr_matrix(counts)], format="csr")
    obs = pd.concat([adata.obs[["cell_type"]]] * 2).reset_index(drop=True).rename(str)
    return AnnData(values, obs=obs, var=adata.var[[]].copy()), np.repeat([0, 1], adata.n_obs)


def test_batches_that_no_column_names_are_inferred(small: Reference, query: AnnData) -> None:
    both, truth = two_batches(query)
    model, cells = fitted(small, both)
    assert model.inferred
    found = model.scores.batches
    # The donors differ too, so there may be more than the two made-up batches.
    share = np.array([truth[found == batch].mean() for batch in range(found.max() + 1)])
    assert ((share[found] > 0.5) == truth).mean() > 0.9
    assert any(f"{len(share)} batches were inferred" in note for note in model.report.notes)
    declined, _ = fitted(small, both, batch_key=None)
    assert not declined.inferred
    assert not declined.scores.batches.any()
    # Beside the sample, the neighbours of a cell tell its batch, and it is labelled as in the sample.
    rows, engine = np.arange(both.n_obs), usual_engine(small)
    part = np.flatnonzero(rows % 7 == 0)
    output, logs = engine.run(cells.part(part), model.scale), engine.embedding.logs(cells.part(part))
    scored = model._scores(output, logs, rows[part], np.zeros(len(part), dtype=np.int64))
    assert ((share[scored.batches] > 0.5) == (share[found[part]] > 0.5)).mean() > 0.9
    assert_same(QueryModel.load(model.save(), small.familiarity), model)


@pytest.mark.slow
def test_inferred_batches_keep_the_labels_of_a_far_batch(small: Reference, query: AnnData) -> None:
    both, _ = two_batches(query)
    inferred, one = labelled(small, both), labelled(small, both, batch_key=None)
    assert inferred.uns()["spikgpt"]["batch_key"] == "inferred"
    truth = both.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, small.labels.names)
    assert (inferred.labels == truth)[known].mean() > 0.9
    assert (inferred.labels == truth)[known].mean() >= (one.labels == truth)[known].mean()
    np.testing.assert_array_equal(labelled(small, both, batch_size=50).labels, inferred.labels)


def test_cells_beside_the_sample_are_scored_as_they_are_in_it(small: Reference, query: AnnData) -> None:
    model, cells = fitted(small, query)
    rows, engine = np.arange(query.n_obs), usual_engine(small)
    # Not looked up, though by their numbers they still are not their own neighbours.
    part = np.flatnonzero(rows % 7 == 0)
    output = engine.run(cells.part(part), model.scale)
    logs = engine.embedding.logs(cells.part(part))
    found = model._scores(output, logs, rows[part], model.scores.batches[part])
    clustered = dataclasses.replace(model, scores=model.with_clusters(query.n_obs).scores)
    assert clustered._scores(output, logs, rows[part], model.scores.batches[part]).clusters is not None
    for name, expected in vars(model.scores.part(part)).items():
        if expected is not None:
            np.testing.assert_allclose(getattr(found, name), expected, atol=1e-5)


def test_a_sample_without_cells_and_a_chunk_of_empty_ones(small: Reference, few: AnnData) -> None:
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
        found = label_cells(small, engine, each, blank, np.arange(3), np.zeros(3, dtype=np.int64))
        assert found.rejected.all()
        assert not found.probabilities.any()
